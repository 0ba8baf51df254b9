//! What every server of the StoreAPI shares, between the wire and its own data: reading requests, external labels, order,
//! sharding, limits, and cutting answers into messages.

pub mod external;
pub mod frames;
pub mod limits;
pub mod request;
pub mod wire;

pub use frames::Frames;
pub use limits::Limits;
pub use request::Select;
