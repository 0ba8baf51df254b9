//! Whole clusters on one machine: the harness of the demo, and the end-to-end stories.
