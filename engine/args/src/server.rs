//! Flags of every part that serves: addresses, TLS, logs.

use crate::flag::{Millis, flags};
use std::fmt;
use std::str::FromStr;

flags! {
    /// Addresses, TLS and logging: the same for every part.
    pub struct ServerArgs {
        /// Where probes, metrics and the HTTP API are served.
        http_address: String = "http-address", "0.0.0.0:10902", since "0.1.0";
        /// How long open HTTP requests may take to finish at shutdown.
        http_grace_period: Millis = "http-grace-period", "2m", since "0.1.0";
        /// Where the gRPC services are served.
        grpc_address: String = "grpc-address", "0.0.0.0:10901", since "0.1.0";
        /// How long open gRPC requests may take to finish at shutdown.
        grpc_grace_period: Millis = "grpc-grace-period", "2m", since "0.1.0";
        /// A gRPC connection older than this is closed after its last answer, so that clients find new replicas.
        grpc_max_connection_age: Millis = "grpc-server-max-connection-age", "1h", since "0.1.0";
        /// PEM file with the certificate chain of the gRPC server; empty means plaintext. Re-read when it changes.
        grpc_tls_cert: String = "grpc-server-tls-cert", "", since "0.1.0";
        /// PEM file with the key of that certificate.
        grpc_tls_key: String = "grpc-server-tls-key", "", since "0.1.0";
        /// PEM file with the authorities whose client certificates are accepted; set, a client must show one.
        grpc_tls_client_ca: String = "grpc-server-tls-client-ca", "", since "0.1.0";
        /// Lowest TLS version that the gRPC server accepts: 1.2 or 1.3.
        grpc_tls_min_version: String = "grpc-server-tls-min-version", "1.3", since "0.1.0";
        /// Least severe level that is logged: error, warn, info, debug, trace.
        log_level: LogLevel = "log.level", "info", since "0.1.0";
        /// How log lines look: logfmt or json.
        log_format: LogFormat = "log.format", "logfmt", since "0.1.0";
    }
}

/// A type whose values are words on the command line.
macro_rules! words {
    ($(#[$m:meta])* $name:ident { $($(#[$vm:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$vm])* $variant),* }
        impl $name {
            /// The word as written on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s {
                    $($text => Ok(Self::$variant),)*
                    other => Err(format!("{other:?} is none of {}", [$($text),*].join(", "))),
                }
            }
        }
    };
}

pub(crate) use words;

words! {
    /// Least severe level that is logged.
    LogLevel {
        /// Only what needs a person.
        Error = "error",
        /// And what may need one soon.
        Warn = "warn",
        /// And what a person wants to know who watches.
        Info = "info",
        /// And every request.
        Debug = "debug",
        /// And every frame.
        Trace = "trace",
    }
}
words! {
    /// Hash of a block's files.
    HashFunc {
        /// No hash.
        None = "",
        /// SHA-256.
        Sha256 = "SHA256",
    }
}
words! {
    /// When index-headers are fetched.
    HeaderStrategy {
        /// As soon as a block is known.
        Eager = "eager",
        /// At a block's first query.
        Lazy = "lazy",
    }
}
words! {
    /// How log lines look.
    LogFormat {
        /// `ts=… level=… msg=…`
        Logfmt = "logfmt",
        /// One JSON object a line.
        Json = "json",
    }
}
