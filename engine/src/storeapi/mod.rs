//! What every server of the StoreAPI shares, between the wire and its own data: reading requests, external labels, order,
//! sharding, limits, and cutting answers into messages.

/// What Prometheus warns about an answer that a limit has cut.
pub const TRUNCATED: &str = "results truncated due to limit";

pub mod exemplars;
pub mod external;
pub mod frames;
pub mod limits;
pub mod request;
pub mod wire;

pub use frames::Frames;
pub use limits::Limits;
pub use request::Select;
