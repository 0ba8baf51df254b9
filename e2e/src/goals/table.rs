//! The runs of `make goals`, one entry per test. docs/goals.md describes them; a test compares the two.

/// A test that measures a goal.
pub(super) struct Goal {
    /// As in docs/goals.md: `G22`.
    pub(super) number: &'static str,
    /// The crate.
    pub(super) package: &'static str,
    /// `lib`, or the name of a test binary.
    pub(super) target: &'static str,
    /// The test's full path inside its binary: `g22::goal_g22_bit_flips`.
    pub(super) test: &'static str,
    /// The runs in which it must fail.
    pub(super) negatives: &'static [Negative],
}

/// A run with a protection switched off.
pub(super) struct Negative {
    /// The name given to `model::protection::off`.
    pub(super) protection: &'static str,
    /// What the test must say when it fails.
    pub(super) line: &'static str,
}

pub(super) const GOALS: &[Goal] = &[
    Goal {
        number: "G01",
        package: "engine",
        target: "lib",
        test: "compact::tests::crashes::goal_g01_every_crash_point",
        negatives: &[Negative { protection: "compact-meta-last", line: "a visible block lacks a file" }],
    },
    Goal {
        number: "G04",
        package: "engine",
        target: "lib",
        test: "compact::tests::rivals::goal_g04_two_compactors_race",
        negatives: &[Negative { protection: "fence", line: "changes were begun without the lease" }],
    },
    Goal {
        number: "G05",
        package: "engine",
        target: "lib",
        test: "compact::tests::rivals::goal_g05_zombies",
        negatives: &[Negative { protection: "fence", line: "changes were begun without the lease" }],
    },
    Goal {
        number: "G06",
        package: "engine",
        target: "lib",
        test: "compact::tests::hostile::goal_g06_hostile_bucket",
        negatives: &[Negative { protection: "own-writes", line: "blocks were compacted twice" }],
    },
    Goal {
        number: "G07",
        package: "engine",
        target: "lib",
        test: "compact::tests::simulation::goal_g07_simulation",
        negatives: &[
            Negative { protection: "fence", line: "changes were begun without the lease" },
            Negative { protection: "lease", line: "changes were begun without the lease" },
            Negative { protection: "asked-awake", line: "changes were begun without the lease" },
            Negative { protection: "compact-meta-last", line: "a visible block lacks a file" },
            Negative { protection: "retention-waits", line: "retention drops nothing that has no coarser copy" },
            Negative { protection: "catalogue-again", line: "was compacted by another program" },
            Negative { protection: "own-writes", line: "is made again" },
            Negative { protection: "closed-ids", line: "a visible block lacks a file" },
            Negative { protection: "upload-meta-last", line: "a visible block lacks a file" },
        ],
    },
    Goal {
        number: "G08",
        package: "engine",
        target: "lib",
        test: "compact::tests::simulation::goal_g08_one_seed_one_course",
        negatives: &[],
    },
    Goal {
        number: "G09",
        package: "engine",
        target: "lib",
        test: "compact::tests::disks::goal_g09_power_loss",
        negatives: &[],
    },
    Goal {
        number: "G12",
        package: "engine",
        target: "lib",
        test: "compact::tests::disks::goal_g12_disk_full_and_back",
        negatives: &[Negative { protection: "disk-space", line: "a full disk is not told" }],
    },
    Goal {
        number: "G11",
        package: "engine",
        target: "lib",
        test: "compact::tests::bad_blocks::goal_g11_one_bad_block_costs_one_block",
        negatives: &[Negative { protection: "quarantine", line: "is sound and was not compacted" }],
    },
    Goal {
        number: "G02",
        package: "panoptes",
        target: "goals",
        test: "g02::goal_g02_kills_of_compactors",
        negatives: &[Negative { protection: "compact-meta-last", line: "a visible block is not whole" }],
    },
    Goal {
        number: "G03",
        package: "panoptes",
        target: "goals",
        test: "g03::goal_g03_kills_during_upload",
        negatives: &[
            Negative { protection: "upload-meta-last", line: "is not, or is not whole" },
            Negative { protection: "upload-once", line: "was written twice" },
        ],
    },
    Goal {
        number: "G10",
        package: "tsdb",
        target: "lib",
        test: "plan::tests::goal_g10_retention_never_outruns_downsampling",
        negatives: &[Negative { protection: "retention-waits", line: "lost by retention" }],
    },
    ours(
        "G20",
        "g20::goal_g20_decoders_of_chunks",
        &[Negative { protection: "chunk-rows", line: "chunk-float-histogram: it takes" }],
    ),
    Goal {
        number: "G14",
        package: "engine",
        target: "roles",
        test: "g14::goal_g14_k_of_n_hung",
        negatives: &[
            Negative { protection: "store-deadline", line: "query timed out" },
            Negative { protection: "missing-told", line: "these are missing, and the answer says others" },
        ],
    },
    roles(
        "G15",
        "g15::goal_g15_no_false_completeness",
        &[Negative { protection: "missing-told", line: "claim to be complete" }],
    ),
    roles("G18", "g18::goal_g18_no_oom", &[Negative { protection: "query-budget", line: "killed in its group" }]),
    roles(
        "G19",
        "g19::goal_g19_clients_that_leave",
        &[
            Negative { protection: "cancel", line: "after their clients have left" },
            Negative { protection: "hedge-share", line: "are more than a tenth" },
        ],
    ),
    roles(
        "G42",
        "g42::goal_g42_bombs_and_floods",
        &[
            Negative { protection: "header-size", line: "memory has grown" },
            Negative { protection: "control-frame-pace", line: "frames were acknowledged in" },
        ],
    ),
    ours(
        "G20",
        "g20::goal_g20_decoders_of_blocks",
        &[Negative { protection: "snapshot-memory", line: "catalogue-snapshot: it takes" }],
    ),
    ours(
        "G20",
        "g20::goal_g20_decoders_of_the_wire",
        &[
            Negative { protection: "snappy-length", line: "remote-read-samples: it takes" },
            Negative { protection: "message-memory", line: "series-response: it takes" },
        ],
    ),
    ours(
        "G20",
        "g20::goal_g20_decoders_of_the_services",
        &[Negative { protection: "message-memory", line: "rules-response: it takes" }],
    ),
    ours(
        "G20",
        "g20::goal_g20_decoders_of_the_language",
        &[
            Negative { protection: "parse-memory", line: "promql: it takes" },
            Negative { protection: "query-automata", line: "selector: it takes" },
        ],
    ),
    ours(
        "G20",
        "g20::goal_g20_decoders_of_documents",
        &[
            Negative { protection: "yaml-aliases,yaml-values", line: "links: it takes" },
            Negative { protection: "yaml-values", line: "endpoints: it takes" },
        ],
    ),
    Goal {
        number: "G16",
        package: "panoptes",
        target: "goals",
        test: "g16::goal_g16_delete_race",
        negatives: &[Negative { protection: "look-again", line: "queries failed" }],
    },
    Goal {
        number: "G17",
        package: "panoptes",
        target: "goals",
        test: "g17::goal_g17_start_over_many_blocks",
        negatives: &[Negative { protection: "catalogue-read", line: "requests, 200 are the most" }],
    },
    Goal {
        number: "G34",
        package: "panoptes",
        target: "goals",
        test: "g34::goal_g34_requests_to_the_bucket",
        negatives: &[Negative { protection: "range-merge", line: "are the least" }],
    },
    ours(
        "G21",
        "g21::goal_g21_damaged_bucket",
        &[
            Negative { protection: "chunk-crc", line: "of chunks/" },
            Negative { protection: "index-crc", line: "of index from" },
        ],
    ),
    ours(
        "G22",
        "g22::goal_g22_bit_flips",
        &[
            Negative { protection: "chunk-crc", line: "in chunks/000001" },
            Negative { protection: "index-crc", line: "in index" },
            Negative { protection: "catalogue-crc", line: "in catalogue" },
            Negative { protection: "meta-committed", line: "in meta.json" },
        ],
    ),
    Goal {
        number: "G23",
        package: "engine",
        target: "lib",
        test: "query::g23::goal_g23_schedules_of_replicas",
        negatives: &[Negative { protection: "dedup-counter", line: "a fall that no replica had" }],
    },
    ours(
        "G41",
        "g41::goal_g41_names",
        &[
            Negative { protection: "object-name", line: "outside" },
            Negative { protection: "rule-file-name", line: "outside of its folder" },
        ],
    ),
    Goal {
        number: "G24",
        package: "tsdb",
        target: "lib",
        test: "downsample::tests::goal_g24_downsampling",
        negatives: &[Negative { protection: "counter-resets", line: "and truly" }],
    },
    Goal {
        number: "G25",
        package: "promql",
        target: "peers",
        test: "fuzz::goal_g25_random_queries_equal_prometheus",
        negatives: &[Negative { protection: "equal-labels", line: "random queries differ from Prometheus" }],
    },
    Goal {
        number: "G43",
        package: "promql",
        target: "language",
        test: "hostile::goal_g43_hostile_patterns_and_queries",
        negatives: &[Negative { protection: "query-budget", line: "the query " }],
    },
];

/// A test of engine/tests/roles.
const fn roles(number: &'static str, test: &'static str, negatives: &'static [Negative]) -> Goal {
    Goal { number, package: "engine", target: "roles", test, negatives }
}

/// A test of e2e/tests/goals.
const fn ours(number: &'static str, test: &'static str, negatives: &'static [Negative]) -> Goal {
    Goal { number, package: "e2e", target: "goals", test, negatives }
}
