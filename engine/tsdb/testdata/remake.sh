#!/usr/bin/env bash
# Makes blocks/ again: small blocks of several writers, with what Prometheus's own library reads in them.
# Needs Go, the Go module proxy, and the peers prometheus-blocks and thanos-blocks (`make peers`).
set -euo pipefail
cd "$(dirname "$0")"
peers="${PANOPTES_PEERS_DIR:-${PANOPTES_CACHE:-$HOME/.cache/panoptes}/peers/bin}"
ask() { echo "$2" | "$peers/$1" | jq -e '.ok // error(.error)'; }
rm -rf blocks && mkdir blocks

# Index version 1: a block that Prometheus keeps among its own test data.
module=$(cd ../../../e2e/peers/prometheus-blocks && go list -m -f '{{.Dir}}' github.com/prometheus/prometheus)
source="$module/tsdb/testdata/index_format_v1"
id=$(jq -r .ulid "$source/meta.json")
mkdir -p blocks/index-v1 && cp -r "$source" "blocks/index-v1/$id" && chmod -R u+w blocks/index-v1

# Old libraries: 2019 (an index with label indices), 2022.
for writer in tsdb-0.10 prometheus-2.37; do
  mkdir -p "blocks/$writer"
  (cd "writers/$writer" && go run . "../../blocks/$writer" >/dev/null)
done

# Today's library: floats and native histograms.
mkdir -p blocks/prometheus-3.14
raw=$(ask prometheus-blocks '{"op":"generate","dir":"'"$PWD"'/blocks/prometheus-3.14","series":40,"samples":300,"start":1700000000000,"interval":15000,"histograms":4,"seed":1}' | jq -r .dir)

# Thanos's downsampling of it, to 5 minutes and on to an hour.
jq --tab '. + {thanos: {labels: {cluster: "eu", replica: "a"}, downsample: {resolution: 0}, source: "sidecar"}}' \
  "$raw/meta.json" >"$raw/meta.json.new" && mv "$raw/meta.json.new" "$raw/meta.json"
mkdir -p blocks/thanos-5m blocks/thanos-1h
five=$(ask thanos-blocks '{"op":"downsample","dir":"'"$raw"'","dest":"'"$PWD"'/blocks/thanos-5m","resolution":300000}' | jq -r .)
ask thanos-blocks '{"op":"downsample","dir":"'"$five"'","dest":"'"$PWD"'/blocks/thanos-1h","resolution":3600000}' >/dev/null

for block in blocks/*/*/; do
  block=${block%/}
  # Prometheus reads no aggregates: of downsampled blocks there are counts only.
  case "$block" in
    blocks/thanos-*) jq '{series: .stats.numSeries, chunks: .stats.numChunks, samples: .stats.numSamples}' "$block/meta.json" ;;
    *) ask prometheus-blocks '{"op":"block","dir":"'"$PWD/$block"'"}' | jq '{series, chunks, samples, hash}' ;;
  esac >"$(dirname "$block")/expected.json"
done
du -sh blocks
