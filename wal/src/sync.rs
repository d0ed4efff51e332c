//! Locks, condition variables and atomics: parking_lot's and the standard library's. Built with `--cfg shuttle` they are
//! shuttle's, which runs the threads of a test one step at a time in orders of its own choosing.

#[cfg(not(shuttle))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(shuttle))]
pub use std::{sync::atomic, thread_local};

#[cfg(shuttle)]
pub use self::tried::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(shuttle)]
pub use shuttle::{sync::atomic, thread_local};

/// parking_lot's interface over shuttle's types.
#[cfg(shuttle)]
mod tried {
    use std::ops::{Deref, DerefMut};
    use std::sync::{PoisonError, TryLockError};
    use std::time::Duration;

    use shuttle::sync;

    /// As parking_lot's.
    #[derive(Debug, Default)]
    pub struct Mutex<T: ?Sized>(sync::Mutex<T>);

    /// As parking_lot's.
    pub struct MutexGuard<'a, T: ?Sized> {
        mutex: &'a Mutex<T>,
        /// There, except while a condition is waited for.
        held: Option<sync::MutexGuard<'a, T>>,
    }

    impl<T> Mutex<T> {
        /// As parking_lot's.
        pub fn new(value: T) -> Self {
            Mutex(sync::Mutex::new(value))
        }
    }

    impl<T: ?Sized> Mutex<T> {
        /// As parking_lot's.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: self, held: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)) }
        }

        /// As parking_lot's.
        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(g) => Some(MutexGuard { mutex: self, held: Some(g) }),
                Err(TryLockError::Poisoned(e)) => Some(MutexGuard { mutex: self, held: Some(e.into_inner()) }),
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }

    impl<T: ?Sized> Deref for MutexGuard<'_, T> {
        type Target = T;
        #[allow(clippy::expect_used)]
        fn deref(&self) -> &T {
            self.held.as_ref().expect("a guard is not used while it waits")
        }
    }

    impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
        #[allow(clippy::expect_used)]
        fn deref_mut(&mut self) -> &mut T {
            self.held.as_mut().expect("a guard is not used while it waits")
        }
    }

    /// As parking_lot's.
    #[derive(Debug, Default)]
    pub struct Condvar(sync::Condvar);

    impl Condvar {
        /// As parking_lot's.
        pub fn new() -> Self {
            Condvar(sync::Condvar::new())
        }

        /// As parking_lot's.
        pub fn wait<T>(&self, g: &mut MutexGuard<'_, T>) {
            if let Some(held) = g.held.take() {
                g.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
            }
        }

        /// Time does not pass here: it may run out at once, and then the loop around it goes on.
        pub fn wait_for<T>(&self, g: &mut MutexGuard<'_, T>, _timeout: Duration) {
            drop(g.held.take());
            shuttle::thread::yield_now();
            g.held = g.mutex.lock().held.take();
        }

        /// As parking_lot's.
        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        /// As parking_lot's.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// As parking_lot's.
    #[derive(Debug, Default)]
    pub struct RwLock<T: ?Sized>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        /// As parking_lot's.
        pub fn new(value: T) -> Self {
            RwLock(sync::RwLock::new(value))
        }
    }

    impl<T: ?Sized> RwLock<T> {
        /// As parking_lot's.
        pub fn read(&self) -> sync::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        /// As parking_lot's.
        pub fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
