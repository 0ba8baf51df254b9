//! One desired object: JSON that says what it is.

use serde_json::Value;

/// One desired object, complete with apiVersion, kind and metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Object(pub Value);

impl Object {
    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Such as `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// Such as `StatefulSet`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// `metadata.namespace`; none for what belongs to the whole cluster.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.0.pointer("/metadata/namespace").and_then(Value::as_str)
    }
}
