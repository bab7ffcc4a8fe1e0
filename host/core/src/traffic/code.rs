//! gRPC's status codes, and sets of them.

use std::{fmt, str::FromStr};

use thiserror::Error;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $digits:literal;)*) => {
        /// A gRPC status code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Code { $($(#[$doc])* $name = $number,)* }

        impl Code {
            /// How many there are.
            pub const COUNT: usize = [$($number),*].len();

            /// All codes, by number.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name),*];

            /// The code's name as gRPC writes it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Its number, as `grpc-status` has it.
            pub fn as_digits(self) -> &'static str {
                match self { $(Self::$name => $digits,)* }
            }
        }
    };
}
codes! {
    /// Success.
    Ok = 0, "OK", "0";
    /// The caller gave up.
    Cancelled = 1, "CANCELLED", "1";
    /// Nothing better is known.
    Unknown = 2, "UNKNOWN", "2";
    /// The request makes no sense, whatever the server's state.
    InvalidArgument = 3, "INVALID_ARGUMENT", "3";
    /// Too late.
    DeadlineExceeded = 4, "DEADLINE_EXCEEDED", "4";
    /// There is no such thing.
    NotFound = 5, "NOT_FOUND", "5";
    /// There is one already.
    AlreadyExists = 6, "ALREADY_EXISTS", "6";
    /// The caller may not.
    PermissionDenied = 7, "PERMISSION_DENIED", "7";
    /// Something is used up.
    ResourceExhausted = 8, "RESOURCE_EXHAUSTED", "8";
    /// The server is not in a state to do it.
    FailedPrecondition = 9, "FAILED_PRECONDITION", "9";
    /// Somebody else got in between.
    Aborted = 10, "ABORTED", "10";
    /// Past the end.
    OutOfRange = 11, "OUT_OF_RANGE", "11";
    /// The server does not do this.
    Unimplemented = 12, "UNIMPLEMENTED", "12";
    /// Something is broken.
    Internal = 13, "INTERNAL", "13";
    /// Not now; try again.
    Unavailable = 14, "UNAVAILABLE", "14";
    /// Data is lost.
    DataLoss = 15, "DATA_LOSS", "15";
    /// Nobody knows who the caller is.
    Unauthenticated = 16, "UNAUTHENTICATED", "16";
}

/// A text that names no code.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no gRPC status code; write its name, for example UNAVAILABLE, or its number")]
pub struct NoSuchCode(String);

impl FromStr for Code {
    type Err = NoSuchCode;

    /// Takes a name in either case, or a number: both are written in service configs.
    fn from_str(text: &str) -> Result<Self, NoSuchCode> {
        let named = |code: &Self| code.as_str().eq_ignore_ascii_case(text) || code.as_digits() == text;
        Self::ALL.into_iter().find(named).ok_or_else(|| NoSuchCode(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of codes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct CodeSet(u32);

impl CodeSet {
    /// Whether the code is in the set.
    pub fn contains(self, code: Code) -> bool {
        self.0 & (1 << code as u32) != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Code> for CodeSet {
    fn from_iter<I: IntoIterator<Item = Code>>(codes: I) -> Self {
        Self(codes.into_iter().fold(0, |set, code| set | 1 << code as u32))
    }
}

impl fmt::Debug for CodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Code::ALL.into_iter().filter(|code| self.contains(*code))).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_code_is_read_by_name_and_by_number() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
            assert_eq!(code.as_digits().parse(), Ok(code));
            assert_eq!(Code::ALL[code as usize], code);
        }
        assert_eq!("unavailable".parse(), Ok(Code::Unavailable));
        assert!("17".parse::<Code>().unwrap_err().to_string().contains("UNAVAILABLE"));
        let set: CodeSet = [Code::Unavailable, Code::Aborted].into_iter().collect();
        assert!(set.contains(Code::Aborted) && !set.contains(Code::Ok) && !CodeSet::default().contains(Code::Ok));
    }
}
