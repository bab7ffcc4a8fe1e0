//! The user and password to authenticate with: the password as it is now, not as it was at the
//! start.

use std::{
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use etcd_client::Error;
use waymark_core::secret::Secret;

use crate::config::{Password, User};

/// A user whose password may be rotated in its file while we run.
pub(super) struct Credentials {
    user: User,
    /// What the file said last. A file that is being replaced must not end what works.
    last: Mutex<Option<Secret>>,
}

impl Credentials {
    pub(super) fn new(user: User) -> Self {
        Self { user, last: Mutex::default() }
    }

    /// The user, with the password as it is now.
    ///
    /// # Errors
    ///
    /// It is in a file that cannot be read, and never could.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn read(&self) -> Result<(&str, Secret), Error> {
        let password = match &self.user.password {
            Password::Text(password) => password.clone(),
            Password::File(path) => {
                let read = read(path).await;
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                match (read, &*last) {
                    (Ok(password), _) => last.insert(password).clone(),
                    (Err(error), Some(last)) => {
                        let path = path.display();
                        tracing::warn!(%path, %error, "the registry's password cannot be read; using the one that was read last");
                        last.clone()
                    }
                    (Err(error), None) => {
                        let problem = format!("needs a password, and {} cannot be read: {error}", path.display());
                        return Err(Error::EndpointError(problem));
                    }
                }
            }
        };
        Ok((&self.user.name, password))
    }
}

async fn read(path: &Path) -> io::Result<Secret> {
    let text = tokio::fs::read_to_string(path).await?;
    match text.trim_end() {
        // No user has this one. It is what a file holds that is being written.
        "" => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty")),
        password => Ok(password.to_owned().into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_password_in_a_file_is_read_each_time_and_kept_while_it_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let credentials = Credentials::new(User { name: "node".into(), password: Password::File(path.clone()) });
        let read = async || credentials.read().await.map(|(user, password)| (user, password.reveal().to_owned()));
        let error = read().await.unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        for (text, wanted) in [("first\n", "first"), ("second", "second"), ("", "second")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read().await.unwrap(), ("node", wanted.to_owned()));
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read().await.unwrap(), ("node", "second".to_owned()));
    }
}
