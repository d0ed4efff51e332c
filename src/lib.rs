//! Strandline.
