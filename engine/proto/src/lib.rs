//! Thanos's gRPC services as generated types, and conversions to model.
