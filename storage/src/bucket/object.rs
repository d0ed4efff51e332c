//! A bucket in an object store: S3 and what speaks like it.
//!
//! The store's futures run on threads of this bucket's own, so that callers may be inside any runtime or none.
//! No TLS provider is installed and no environment read: the client is configured here.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::lock::Mutex;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult, RetryConfig, UpdateVersion};
use strandline_wal::fs::Fs;

use super::{Bucket, ObjectInfo};
use crate::error::{Error, ErrorKind, Result};

/// How to reach an S3 bucket.
#[derive(Clone, Default)]
pub struct S3Settings {
    /// `s3://bucket/prefix`.
    pub url: String,
    /// Where the service listens, e.g. `http://127.0.0.1:9000`; AWS if empty.
    pub endpoint: String,
    /// Region; `us-east-1` if empty.
    pub region: String,
    /// Access key.
    pub access_key_id: String,
    /// Secret key.
    pub secret_access_key: String,
    /// Session token of temporary keys.
    pub session_token: String,
    /// Ask the cloud's instance metadata service for keys. Never done unasked.
    pub instance_metadata: bool,
    /// CA certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Give up on a request after this.
    pub timeout_ms: u64,
}

impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Settings").field("url", &self.url).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// An object store as a bucket.
pub struct ObjectBucket {
    store: Arc<dyn ObjectStore>,
    fs: Arc<dyn Fs>,
    prefix: String,
    name: String,
    runtime: Option<tokio::runtime::Runtime>,
    timeout: Duration,
}

/// Larger files go up in parts of this size.
const PART_BYTES: usize = 16 << 20;
/// So many ranges of an object are asked for at once.
const OVERLAP: usize = 8;

impl ObjectBucket {
    /// A bucket over a store that the caller has made.
    pub fn new(store: Arc<dyn ObjectStore>, fs: Arc<dyn Fs>, name: String, prefix: &str, timeout: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("strandline-bucket")
            .enable_all()
            .build()
            .map_err(|e| Error::new(ErrorKind::Unavailable, format!("starting the bucket's thread: {e}")))?;
        Ok(ObjectBucket { store, fs, prefix: prefix.trim_matches('/').to_owned(), name, runtime: Some(runtime), timeout })
    }

    /// An S3 bucket. Checks the settings, not the service: see [`ObjectBucket::check`].
    pub fn s3(settings: &S3Settings, fs: Arc<dyn Fs>) -> Result<Self> {
        let (bucket, prefix) = split_url(&settings.url)?;
        let http = settings.endpoint.starts_with("http://");
        let timeout = Duration::from_millis(if settings.timeout_ms == 0 { 30_000 } else { settings.timeout_ms });
        let keys = !settings.access_key_id.is_empty() && !settings.secret_access_key.is_empty();
        if !keys && !settings.instance_metadata {
            return Err(Error::invalid(format!(
                "bucket {}: no keys: set bucket.access_key_id and bucket.secret_access_key (or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY), or bucket.instance_metadata = true on a cloud machine",
                settings.url
            )));
        }
        let connector = Connector { http, ca_file: settings.ca_file.clone(), fs: fs.clone(), timeout };
        let region = if settings.region.is_empty() { "us-east-1" } else { &settings.region };
        let mut b = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_allow_http(http)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_http_connector(connector)
            .with_retry(RetryConfig { max_retries: 2, retry_timeout: timeout, ..RetryConfig::default() });
        if keys {
            b = b.with_access_key_id(&settings.access_key_id).with_secret_access_key(&settings.secret_access_key);
            if !settings.session_token.is_empty() {
                b = b.with_token(&settings.session_token);
            }
        }
        if !settings.endpoint.is_empty() {
            b = b.with_endpoint(&settings.endpoint).with_virtual_hosted_style_request(false);
        }
        let store = b.build().map_err(|e| Error::invalid(format!("bucket {}: {e}", settings.url)))?;
        Self::new(Arc::new(store), fs, settings.url.clone(), prefix, timeout * 3)
    }

    /// Asks the service for something, so that wrong keys or a missing bucket show at once.
    pub fn check(&self) -> Result<()> {
        self.list_folders("").map(|_| ())
    }

    fn key(&self, key: &str) -> Key {
        if self.prefix.is_empty() { Key::from(key) } else { Key::from(format!("{}/{key}", self.prefix)) }
    }

    /// Runs a future on the bucket's thread and waits for it here.
    fn run<T: Send + 'static>(&self, key: &str, f: impl Future<Output = object_store::Result<T>> + Send + 'static) -> Result<T> {
        let Some(rt) = &self.runtime else { return Err(Error::new(ErrorKind::Closed, "the bucket is closed")) };
        let (tx, rx) = mpsc::sync_channel(1);
        let timeout = self.timeout;
        rt.spawn(async move {
            let r = tokio::time::timeout(timeout, f).await;
            let _ = tx.send(r);
        });
        match rx.recv() {
            Ok(Ok(r)) => r.map_err(|e| self.explain(key, e)),
            Ok(Err(_)) => {
                Err(Error::new(ErrorKind::Unavailable, format!("{}: no answer within {} s", self.name, timeout.as_secs())).at(key))
            }
            Err(_) => Err(Error::new(ErrorKind::Closed, "the bucket is closed")),
        }
    }

    /// Says what to do about the common mistakes of a first contact.
    fn explain(&self, key: &str, e: object_store::Error) -> Error {
        use object_store::Error as E;
        let text = chain(&e);
        let has = |s: &str| text.contains(s);
        let (kind, message) = match &e {
            // Whoever asks a query has no part in these, and who set it up can mend them while it runs.
            _ if has("NoSuchBucket") || has("bucket does not exist") => {
                (ErrorKind::Unavailable, "the bucket does not exist: create it, or correct its name".to_owned())
            }
            _ if has("InvalidAccessKeyId") => (ErrorKind::Unavailable, "the service does not know the access key".to_owned()),
            _ if has("SignatureDoesNotMatch") => {
                (ErrorKind::Unavailable, "the secret key is wrong (the signature does not match)".to_owned())
            }
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                (ErrorKind::Unavailable, format!("access denied: check the keys and the bucket's policy ({text})"))
            }
            E::NotFound { .. } => (ErrorKind::NotFound, "no such object".to_owned()),
            E::AlreadyExists { .. } | E::Precondition { .. } => (ErrorKind::Invalid, "the object is there already".to_owned()),
            _ if has("certificate") || has("UnknownIssuer") => {
                (ErrorKind::Unavailable, format!("TLS: the service's certificate is not trusted: set bucket.ca_file ({text})"))
            }
            _ => (ErrorKind::Unavailable, text),
        };
        Error::new(kind, format!("{}: {message}", self.name)).at(key).caused_by(e)
    }
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(s) = next {
        let t = s.to_string();
        if !text.contains(&t) {
            text = format!("{text}: {t}");
        }
        next = s.source();
    }
    text
}

fn split_url(url: &str) -> Result<(&str, &str)> {
    let rest = url
        .strip_prefix("s3://")
        .ok_or_else(|| Error::invalid(format!("bucket {url:?}: expected s3://bucket/prefix or file:///folder")))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(Error::invalid(format!("bucket {url:?} has no bucket name")));
    }
    Ok((bucket, prefix))
}

/// Makes the HTTP client with our own TLS configuration.
#[derive(Clone)]
struct Connector {
    http: bool,
    ca_file: Option<PathBuf>,
    fs: Arc<dyn Fs>,
    timeout: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("http", &self.http).finish_non_exhaustive()
    }
}

impl Connector {
    fn roots(&self) -> std::result::Result<rustls::RootCertStore, String> {
        let mut roots = rustls::RootCertStore::empty();
        if self.http {
            return Ok(roots);
        }
        if let Some(path) = &self.ca_file {
            let pem = self.fs.read(path).map_err(|e| format!("reading bucket.ca_file {}: {e}", path.display()))?;
            use rustls::pki_types::pem::PemObject;
            for cert in rustls::pki_types::CertificateDer::pem_slice_iter(&pem) {
                let cert = cert.map_err(|e| format!("bucket.ca_file {}: {e}", path.display()))?;
                roots.add(cert).map_err(|e| format!("bucket.ca_file {}: {e}", path.display()))?;
            }
        } else {
            for cert in rustls_native_certs::load_native_certs().certs {
                let _ = roots.add(cert);
            }
        }
        if roots.is_empty() {
            return Err("no CA certificates found on this machine: install ca-certificates, or set bucket.ca_file".into());
        }
        Ok(roots)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let fail = |e: String| object_store::Error::Generic { store: "S3", source: e.into() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| fail(e.to_string()))?
            .with_root_certificates(self.roots().map_err(fail)?)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(self.timeout)
            .connect_timeout(Duration::from_secs(5))
            .user_agent("strandline")
            .build()
            .map_err(|e| fail(chain(&e)))?;
        Ok(HttpClient::new(client))
    }
}

impl Drop for ObjectBucket {
    fn drop(&mut self) {
        // Never waits: uploads that are cut off are done again at the next start.
        if let Some(rt) = self.runtime.take() {
            rt.shutdown_background();
        }
    }
}

impl Bucket for ObjectBucket {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn put(&self, key: &str, content: Bytes) -> Result<()> {
        let (store, k) = (self.store.clone(), self.key(key));
        self.run(key, async move { store.put(&k, PutPayload::from_bytes(content)).await.map(|_| ()) })
    }
    fn put_file(&self, key: &str, path: &Path) -> Result<()> {
        let io = |e| Error::io("reading a file to upload", path, e);
        let f = self.fs.open(path).map_err(io)?;
        let len = f.len();
        if len <= PART_BYTES as u64 {
            return self.put(key, f.read_at(0, len as usize).map_err(io)?);
        }
        let (store, k) = (self.store.clone(), self.key(key));
        let upload = Arc::new(Mutex::new(self.run(key, async move { store.put_multipart(&k).await })?));
        let put = || {
            let mut at = 0;
            while at < len {
                let n = (len - at).min(PART_BYTES as u64);
                let content = f.read_at(at, n as usize).map_err(io)?;
                let u = upload.clone();
                self.run(key, async move { u.lock().await.put_part(PutPayload::from_bytes(content)).await })?;
                at += n;
            }
            let u = upload.clone();
            self.run(key, async move { u.lock().await.complete().await.map(|_| ()) })
        };
        put().inspect_err(|_| {
            // Best effort: the store keeps the parts, unseen, until it is told. It is not waited for: it may be away.
            let u = upload.clone();
            if let Some(rt) = &self.runtime {
                rt.spawn(async move { u.lock().await.abort().await });
            }
        })
    }
    fn put_if_absent(&self, key: &str, content: Bytes) -> Result<bool> {
        let (store, k) = (self.store.clone(), self.key(key));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.run(key, async move {
            match store.put_opts(&k, PutPayload::from_bytes(content), options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
                Err(e) => Err(e),
            }
        })
    }
    fn put_if_match(&self, key: &str, content: Bytes, tag: Option<&str>) -> Result<Option<String>> {
        let (store, k) = (self.store.clone(), self.key(key));
        let mode = match tag {
            None => PutMode::Create,
            Some(t) => PutMode::Update(UpdateVersion { e_tag: Some(t.to_owned()), version: None }),
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        self.run(key, async move {
            use object_store::Error as E;
            match store.put_opts(&k, PutPayload::from_bytes(content), options).await {
                Ok(PutResult { e_tag: Some(t), .. }) => Ok(Some(t)),
                Ok(_) => Ok(store.head(&k).await?.e_tag),
                // Some answer a condition on a missing object with "not found".
                Err(E::AlreadyExists { .. } | E::Precondition { .. } | E::NotFound { .. }) => Ok(None),
                Err(e) => Err(e),
            }
        })
    }
    fn get_tagged(&self, key: &str) -> Result<(Bytes, String)> {
        let (store, k) = (self.store.clone(), self.key(key));
        let (content, tag) = self.run(key, async move {
            let got = store.get(&k).await?;
            let tag = got.meta.e_tag.clone();
            Ok((got.bytes().await?, tag))
        })?;
        let tag = tag.ok_or_else(|| Error::invalid(format!("{} gives no tags", self.name)).at(key))?;
        Ok((content, tag))
    }
    fn get(&self, key: &str) -> Result<Bytes> {
        let (store, k) = (self.store.clone(), self.key(key));
        self.run(key, async move { store.get(&k).await?.bytes().await })
    }
    fn get_range(&self, key: &str, offset: u64, len: usize) -> Result<Bytes> {
        let (store, k) = (self.store.clone(), self.key(key));
        let got = self.run(key, async move { store.get_range(&k, offset..offset + len as u64).await })?;
        if got.len() != len {
            return Err(Error::corrupt(format!("{}: asked for {len} bytes, got {}", self.name, got.len())).at(key).offset(offset));
        }
        Ok(got)
    }
    fn get_ranges(&self, key: &str, ranges: &[(u64, usize)]) -> Result<Vec<Bytes>> {
        use futures_util::{StreamExt, stream};
        let (store, k) = (self.store.clone(), self.key(key));
        let wanted: Vec<std::ops::Range<u64>> = ranges.iter().map(|(o, n)| *o..*o + *n as u64).collect();
        let got: Vec<Bytes> = self.run(key, async move {
            stream::iter(wanted)
                .map(|r| {
                    let (store, k) = (store.clone(), k.clone());
                    async move { store.get_range(&k, r).await }
                })
                .buffered(OVERLAP)
                .try_collect()
                .await
        })?;
        match got.iter().zip(ranges).find(|(g, (_, n))| g.len() != *n) {
            Some((g, (o, n))) => Err(Error::corrupt(format!("{}: asked for {n} bytes, got {}", self.name, g.len())).at(key).offset(*o)),
            None => Ok(got),
        }
    }
    fn size(&self, key: &str) -> Result<u64> {
        let (store, k) = (self.store.clone(), self.key(key));
        self.run(key, async move { Ok(store.head(&k).await?.size) })
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let (store, k) = (self.store.clone(), self.key(prefix.trim_end_matches('/')));
        let found = self.run(prefix, async move { store.list(Some(&k)).try_collect::<Vec<_>>().await })?;
        let strip = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let info =
            |m: object_store::ObjectMeta| ObjectInfo { key: m.location.as_ref().get(strip..).unwrap_or("").to_owned(), size_bytes: m.size };
        let mut out: Vec<ObjectInfo> = found.into_iter().map(info).collect();
        out.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(out)
    }
    fn list_folders(&self, prefix: &str) -> Result<Vec<String>> {
        let (store, k) = (self.store.clone(), self.key(prefix.trim_end_matches('/')));
        let found = self.run(prefix, async move { store.list_with_delimiter(Some(&k)).await })?;
        let name = |p: &Key| p.parts().next_back().map(|s| s.as_ref().to_owned()).unwrap_or_default();
        Ok(found.common_prefixes.iter().map(name).collect())
    }
    fn delete(&self, key: &str) -> Result<()> {
        let (store, k) = (self.store.clone(), self.key(key));
        match self.run(key, async move { store.delete(&k).await }) {
            Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::BoxFuture;
    use futures_util::stream::BoxStream;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, Result as StoreResult, UploadPart,
    };
    use strandline_wal::fs::SimFs;

    /// Takes the first part of an upload, and no other; says when it was told to forget it.
    #[derive(Debug, Clone)]
    struct HalfStore {
        parts: usize,
        aborted: mpsc::SyncSender<()>,
    }

    impl std::fmt::Display for HalfStore {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("half")
        }
    }

    fn refused<T: Send + 'static>() -> BoxFuture<'static, StoreResult<T>> {
        Box::pin(async { Err(object_store::Error::Generic { store: "half", source: "injected".into() }) })
    }

    impl MultipartUpload for HalfStore {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            self.parts += 1;
            if self.parts == 1 { Box::pin(async { Ok(()) }) } else { refused() }
        }
        fn complete<'a, 'f>(&'a mut self) -> BoxFuture<'f, StoreResult<PutResult>>
        where
            'a: 'f,
        {
            refused()
        }
        fn abort<'a, 'f>(&'a mut self) -> BoxFuture<'f, StoreResult<()>>
        where
            'a: 'f,
        {
            self.aborted.send(()).unwrap();
            Box::pin(async { Ok(()) })
        }
    }

    impl ObjectStore for HalfStore {
        fn put_opts<'a, 'b, 'f>(&'a self, _: &'b Key, _: PutPayload, _: PutOptions) -> BoxFuture<'f, StoreResult<PutResult>>
        where
            'a: 'f,
            'b: 'f,
        {
            refused()
        }
        fn put_multipart_opts<'a, 'b, 'f>(
            &'a self,
            _: &'b Key,
            _: PutMultipartOptions,
        ) -> BoxFuture<'f, StoreResult<Box<dyn MultipartUpload>>>
        where
            'a: 'f,
            'b: 'f,
        {
            let upload: Box<dyn MultipartUpload> = Box::new(self.clone());
            Box::pin(async { Ok(upload) })
        }
        fn get_opts<'a, 'b, 'f>(&'a self, _: &'b Key, _: GetOptions) -> BoxFuture<'f, StoreResult<GetResult>>
        where
            'a: 'f,
            'b: 'f,
        {
            refused()
        }
        fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Key>>) -> BoxStream<'static, StoreResult<Key>> {
            locations
        }
        fn list(&self, _: Option<&Key>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
            Box::pin(futures_util::stream::empty())
        }
        fn list_with_delimiter<'a, 'b, 'f>(&'a self, _: Option<&'b Key>) -> BoxFuture<'f, StoreResult<ListResult>>
        where
            'a: 'f,
            'b: 'f,
        {
            refused()
        }
        fn copy_opts<'a, 'b, 'c, 'f>(&'a self, _: &'b Key, _: &'c Key, _: CopyOptions) -> BoxFuture<'f, StoreResult<()>>
        where
            'a: 'f,
            'b: 'f,
            'c: 'f,
        {
            refused()
        }
    }

    #[test]
    fn the_parts_of_an_upload_that_fails_are_given_up() {
        let (aborted, told) = mpsc::sync_channel(1);
        let fs = SimFs::new();
        fs.write_atomic(Path::new("/large"), &vec![7; PART_BYTES + 1]).unwrap();
        let store = Arc::new(HalfStore { parts: 0, aborted });
        let b = ObjectBucket::new(store, Arc::new(fs), "half".into(), "", Duration::from_secs(60)).unwrap();
        assert!(b.put_file("k", Path::new("/large")).unwrap_err().to_string().contains("injected"));
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(()));
    }
}
