//! What operator and engine agree on: flags, links.yaml, the state document.
