//! From when to when our own certificates hold.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use webpki::{EndEntityCert, KeyUsage};

use super::tls::{Part, Pem, TlsError};

/// From when to when a certificate holds, in seconds of the unix time, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From when.
    pub not_before: i64,
    /// To when.
    pub not_after: i64,
}

impl Validity {
    /// Of our own certificate in these texts, if they have one: the first of its chain. What stands
    /// behind it is looked at by the other side, which may know better: chains go about with a
    /// certificate in them that has long expired and that nobody needs.
    ///
    /// # Errors
    ///
    /// What [`ServerTls::new`](crate::ServerTls::new) says of a text without a certificate.
    pub fn of(pem: &Pem) -> Result<Option<Self>, TlsError> {
        let Some((chain, _)) = &pem.identity else { return Ok(None) };
        let part = Part::Certificate;
        let leaf = CertificateDer::pem_slice_iter(chain).next();
        let leaf = leaf.ok_or(TlsError::Missing { part, wanted: "certificate" })?;
        let leaf = leaf.map_err(|source| TlsError::Pem { part, source })?;
        let leaf = EndEntityCert::try_from(&leaf).map_err(TlsError::NotX509)?;
        // What verifies certificates tells from when to when they hold by refusing them, and looks
        // at that first: before the beginning of all time, and after its end.
        let refused = |seconds| {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            leaf.verify_for_usage(&[], &[], &[], at, KeyUsage::server_auth(), None, None).err()
        };
        let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let not_before = match refused(0) {
            Some(webpki::Error::CertNotValidYet { not_before, .. }) => seconds(not_before),
            // From the epoch on, or from before it.
            _ => 0,
        };
        match refused(u64::MAX) {
            Some(webpki::Error::CertExpired { not_after, .. }) => {
                Ok(Some(Self { not_before, not_after: seconds(not_after) }))
            }
            Some(error) => Err(TlsError::NotX509(error)),
            None => Ok(Some(Self { not_before, not_after: i64::MAX })),
        }
    }

    /// Whether it holds at this time.
    pub fn holds(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// Says how it stands at this time.
    pub fn at(&self, now: i64) -> impl fmt::Display {
        let Self { not_before, not_after } = *self;
        fmt::from_fn(move |f| match (not_before - now, not_after - now) {
            (1.., _) => write!(f, "is not valid for another {}", span(not_before - now)),
            (_, ..0) => write!(f, "expired {} ago", span(now - not_after)),
            (_, left) => write!(f, "expires in {}", span(left)),
        })
    }
}

/// The unix time now, seconds.
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn span(seconds: i64) -> String {
    match seconds {
        172_800.. => format!("{} days", seconds / 86_400),
        7_200.. => format!("{} hours", seconds / 3600),
        120.. => format!("{} minutes", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn it_is_read_from_the_certificate() {
        let key = KeyPair::generate().unwrap();
        let pem = |from, to| {
            let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (from, to);
            let certificate = params.self_signed(&key).unwrap();
            Pem { identity: Some((certificate.pem().into_bytes(), Vec::new())), authorities: None }
        };
        let (from, to) = (date_time_ymd(2020, 1, 2), date_time_ymd(2030, 3, 4));
        let validity = Validity { not_before: from.unix_timestamp(), not_after: to.unix_timestamp() };
        assert_eq!(Validity::of(&pem(from, to)).unwrap(), Some(validity));
        let (from, to) = (date_time_ymd(1970, 1, 1), date_time_ymd(9999, 12, 31));
        let validity = Validity { not_before: 0, not_after: to.unix_timestamp() };
        assert_eq!(Validity::of(&pem(from, to)).unwrap(), Some(validity));
        assert_eq!(Validity::of(&Pem::default()).unwrap(), None);
        let broken = Pem { identity: Some((b"no certificate".to_vec(), Vec::new())), authorities: None };
        Validity::of(&broken).unwrap_err();
    }

    #[test]
    fn how_a_certificate_stands_is_said_in_words() {
        let validity = Validity { not_before: 1_000_000, not_after: 2_000_000 };
        assert!(validity.holds(1_000_000) && validity.holds(2_000_000));
        assert!(!validity.holds(999_999) && !validity.holds(2_000_001));
        for (now, words) in [
            (999_000, "is not valid for another 16 minutes"),
            (1_500_000, "expires in 5 days"),
            (1_999_990, "expires in 10 s"),
            (2_000_000, "expires in 0 s"),
            (2_010_000, "expired 2 hours ago"),
        ] {
            assert_eq!(validity.at(now).to_string(), words);
        }
    }
}
