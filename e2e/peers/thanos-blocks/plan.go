package main

import (
	"bytes"
	"sort"

	"github.com/go-kit/log"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/thanos-io/objstore"
	"github.com/thanos-io/thanos/pkg/block"
	"github.com/thanos-io/thanos/pkg/block/metadata"
	"github.com/thanos-io/thanos/pkg/compact"
	"github.com/thanos-io/thanos/pkg/extprom"
)

// plan asks Thanos's planner, with its rules about large indexes and about downsampled blocks that overlap, about the blocks of
// one group, sorted by their begin. The no-compact marks that it writes on the way are told, too.
func plan(r request) (any, error) {
	bucket := objstore.NewInMemBucket()
	instrumented := objstore.WithNoopInstr(bucket)
	metas := map[ulid.ULID]*metadata.Meta{}
	for _, m := range r.Metas {
		metas[m.ULID] = m
	}
	for _, id := range r.Excluded {
		mark := []byte(`{"id":"` + id.String() + `","version":1,"no_compact_time":0,"reason":"manual"}`)
		if err := bucket.Upload(background, id.String()+"/"+metadata.NoCompactMarkFilename, bytes.NewReader(mark)); err != nil {
			return nil, err
		}
	}
	excluded := compact.NewGatherNoCompactionMarkFilter(log.NewNopLogger(), instrumented, 1)
	if err := excluded.Filter(background, metas, extprom.NewTxGaugeVec(nil, prometheus.GaugeOpts{}, []string{"state"}), nil); err != nil {
		return nil, err
	}
	marked := promauto.With(nil).NewCounter(prometheus.CounterOpts{})
	planner := compact.WithVerticalCompactionDownsampleFilter(
		compact.WithLargeTotalIndexSizeFilter(
			compact.NewPlanner(log.NewNopLogger(), r.Ranges, excluded), instrumented, r.Limit, marked),
		instrumented, marked)
	chosen, err := planner.Plan(background, r.Metas, nil, nil)
	if err != nil {
		return nil, err
	}
	ids, marks := []string{}, []string{}
	for _, m := range chosen {
		ids = append(ids, m.ULID.String())
	}
	before := map[ulid.ULID]bool{}
	for _, id := range r.Excluded {
		before[id] = true
	}
	for name := range bucket.Objects() {
		if id, ok := block.IsBlockDir(name[:26]); ok && !before[id] {
			marks = append(marks, id.String())
		}
	}
	sort.Strings(marks)
	return map[string]any{"plan": ids, "marked": marks}, nil
}

// duplicates asks Thanos which blocks others supersede.
func duplicates(r request) (any, error) {
	metas := map[ulid.ULID]*metadata.Meta{}
	for _, m := range r.Metas {
		metas[m.ULID] = m
	}
	filter := block.NewDeduplicateFilter(1)
	if err := filter.Filter(background, metas, extprom.NewTxGaugeVec(nil, prometheus.GaugeOpts{}, []string{"state"}), nil); err != nil {
		return nil, err
	}
	ids := []string{}
	for _, id := range filter.DuplicateIDs() {
		ids = append(ids, id.String())
	}
	return ids, nil
}
