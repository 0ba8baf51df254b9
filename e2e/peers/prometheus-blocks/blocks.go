package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"log/slog"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/tsdb/tombstones"
)

var quiet = slog.New(slog.DiscardHandler)

type seriesWire struct {
	Labels  map[string]string `json:"labels"`
	Samples []sample          `json:"samples,omitempty"`
	Chunks  []chunkWire       `json:"chunks,omitempty"`
}

type blockRequest struct {
	Dir string `json:"dir"`
	// Series asks for a line per series.
	Series bool `json:"series"`
	// Decode reads the samples too (for `scan`).
	Decode bool `json:"decode"`
}

type seriesHash struct {
	Labels  map[string]string `json:"labels"`
	Ref     uint64            `json:"ref"`
	Chunks  int               `json:"chunks"`
	Samples int               `json:"samples"`
	Hash    string            `json:"hash"`
}

// block opens a block with Prometheus's library and hashes what is in it.
//
// A series' hash is SHA-256 over its samples: time and start time (signed, 8 bytes each, big endian like all that follows), a
// byte for the kind (1 float, 2 histogram, 3 float histogram), and the float's bits or the histogram's schema (4 bytes), zero
// threshold, zero count, count, sum (8 bytes each), the positive spans (their number as 4 bytes, each offset and length as 4),
// the negative spans, the positive buckets (absolute; their number as 4 bytes, each 8), the negative buckets, the custom
// bounds. Hints of resets are left out, since they depend on where chunks are cut. The block's hash is SHA-256 over all series
// in order: for each label its name, 0xff, its value, 0xff; then the series' hash.
func block(r blockRequest) (any, error) {
	b, err := tsdb.OpenBlock(quiet, r.Dir, chunkenc.NewPool(), tsdb.DefaultPostingsDecoderFactory)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	all, list := sha256.New(), []seriesHash{}
	nSeries, nChunks, nSamples := 0, 0, 0
	err = eachSeries(b, func(ref storage.SeriesRef, lset labels.Labels, metas []chunks.Meta, cr tsdb.ChunkReader) error {
		one, samples := sha256.New(), 0
		for _, m := range metas {
			c, iterable, err := cr.ChunkOrIterable(m)
			if err != nil {
				return err
			}
			if iterable != nil {
				return fmt.Errorf("%s: a chunk came as an iterable", lset)
			}
			it := c.Iterator(nil)
			for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
				s, err := at(it, typ)
				if err != nil {
					return err
				}
				hashSample(one, s)
				samples++
			}
			if it.Err() != nil {
				return fmt.Errorf("%s: %w", lset, it.Err())
			}
		}
		lset.Range(func(l labels.Label) { all.Write([]byte(l.Name + "\xff" + l.Value + "\xff")) })
		all.Write(one.Sum(nil))
		nSeries, nChunks, nSamples = nSeries+1, nChunks+len(metas), nSamples+samples
		if r.Series {
			list = append(list, seriesHash{lset.Map(), uint64(ref), len(metas), samples, hex.EncodeToString(one.Sum(nil))})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"meta": b.Meta(), "series": nSeries, "chunks": nChunks, "samples": nSamples,
		"hash": hex.EncodeToString(all.Sum(nil)), "list": list,
	}, nil
}

func eachSeries(b *tsdb.Block, f func(storage.SeriesRef, labels.Labels, []chunks.Meta, tsdb.ChunkReader) error) error {
	ir, err := b.Index()
	if err != nil {
		return err
	}
	defer ir.Close()
	cr, err := b.Chunks()
	if err != nil {
		return err
	}
	defer cr.Close()
	p := tsdb.AllSortedPostings(context.Background(), ir)
	var builder labels.ScratchBuilder
	var metas []chunks.Meta
	for p.Next() {
		if err := ir.Series(p.At(), &builder, &metas); err != nil {
			return err
		}
		if err := f(p.At(), builder.Labels(), metas, cr); err != nil {
			return err
		}
	}
	return p.Err()
}

func hashSample(h hash.Hash, s sample) {
	var b []byte
	u32 := func(n int) { b = binary.BigEndian.AppendUint32(b, uint32(n)) }
	u64 := func(n uint64) { b = binary.BigEndian.AppendUint64(b, n) }
	u64(uint64(s.T))
	u64(uint64(s.ST))
	if s.V != nil {
		b = append(b, 1)
		u64(*s.V)
		h.Write(b)
		return
	}
	w, kind := s.H, byte(2)
	if w == nil {
		w, kind = s.FH, 3
	}
	b = append(b, kind)
	u32(int(w.Schema))
	for _, n := range []uint64{w.ZeroThreshold, w.ZeroCount, w.Count, w.Sum} {
		u64(n)
	}
	for _, list := range [][][2]int64{w.PositiveSpans, w.NegativeSpans} {
		u32(len(list))
		for _, s := range list {
			u32(int(s[0]))
			u32(int(s[1]))
		}
	}
	for _, list := range [][]uint64{w.Positive, w.Negative, w.Custom} {
		u32(len(list))
		for _, n := range list {
			u64(n)
		}
	}
	h.Write(b)
}

// scan times opening a block and reading all its series and chunks, decoded or not.
func scan(r blockRequest) (any, error) {
	start := time.Now()
	b, err := tsdb.OpenBlock(quiet, r.Dir, chunkenc.NewPool(), tsdb.DefaultPostingsDecoderFactory)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	opened := time.Since(start)
	var it chunkenc.Iterator
	nSeries, nChunks, nSamples, nBytes, sum := 0, 0, 0, 0, 0.0
	err = eachSeries(b, func(_ storage.SeriesRef, _ labels.Labels, metas []chunks.Meta, cr tsdb.ChunkReader) error {
		nSeries++
		for _, m := range metas {
			c, _, err := cr.ChunkOrIterable(m)
			if err != nil {
				return err
			}
			nChunks, nBytes = nChunks+1, nBytes+len(c.Bytes())
			if !r.Decode {
				continue
			}
			it = c.Iterator(it)
			for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
				if typ == chunkenc.ValFloat {
					_, v := it.At()
					sum += v
				} else {
					_, h := it.AtFloatHistogram(nil)
					sum += h.Sum
				}
				nSamples++
			}
			if it.Err() != nil {
				return it.Err()
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"open_nanoseconds": opened.Nanoseconds(), "nanoseconds": time.Since(start).Nanoseconds(),
		"series": nSeries, "chunks": nChunks, "samples": nSamples, "chunk_bytes": nBytes, "sum": bits(sum),
	}, nil
}

type writeRequest struct {
	Dir    string       `json:"dir"`
	Series []seriesWire `json:"series"`
}

// room is a block range for the writer's head that takes series one after the other: it refuses samples older than half of
// its range before the newest one.
func room(minT, maxT int64) int64 {
	return max(tsdb.DefaultBlockDuration, 2*(maxT-minT)+1)
}

// write makes a block from samples by way of Prometheus's head.
func write(r writeRequest) (any, error) {
	var series []storage.Series
	minT, maxT := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range r.Series {
		for _, one := range s.Samples {
			minT, maxT = min(minT, one.T), max(maxT, one.T)
		}
		series = append(series, &storage.SeriesEntry{
			Lset:             labels.FromMap(s.Labels),
			SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator { return &sampleIterator{samples: s.Samples} },
		})
	}
	return created(tsdb.CreateBlock(series, r.Dir, room(minT, maxT), quiet))
}

func created(dir string, err error) (any, error) {
	return map[string]any{"dir": dir}, err
}

type generateRequest struct {
	Dir     string `json:"dir"`
	Series  int    `json:"series"`
	Samples int    `json:"samples"`
	// Start and Interval in milliseconds.
	Start    int64 `json:"start"`
	Interval int64 `json:"interval"`
	// Histograms: every so many-th series is a native histogram; 0: none.
	Histograms int   `json:"histograms"`
	Seed       int64 `json:"seed"`
}

// generate makes a large block like those of a small fleet: counters, gauges, some constants, some jitter.
func generate(r generateRequest) (any, error) {
	random := rand.New(rand.NewSource(r.Seed))
	var series []storage.Series
	for i := range r.Series {
		seed, kind := random.Int63(), i%4
		lset := labels.FromStrings(
			"__name__", fmt.Sprintf("metric_%d", i/50), "instance", fmt.Sprintf("10.0.%d.%d:9100", i%50/8, i%50%8),
			"job", fmt.Sprintf("job-%d", i%7), "pod", fmt.Sprintf("pod-%06d", i),
		)
		isHistogram := r.Histograms > 0 && i%r.Histograms == 0
		series = append(series, &storage.SeriesEntry{Lset: lset, SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator {
			return &sampleIterator{samples: generated(seed, kind, isHistogram, r)}
		}})
	}
	return created(tsdb.CreateBlock(series, r.Dir, room(r.Start, r.Start+int64(r.Samples)*r.Interval), quiet))
}

func generated(seed int64, kind int, isHistogram bool, r generateRequest) []sample {
	random := rand.New(rand.NewSource(seed))
	out, v := make([]sample, 0, r.Samples), float64(random.Intn(1000))
	counts := make([]uint64, 8)
	for i := range r.Samples {
		s := sample{T: r.Start + int64(i)*r.Interval + int64(random.Intn(7)) - 3}
		if isHistogram {
			total := uint64(0)
			for b := range counts {
				counts[b] += uint64(random.Intn(5))
				total += counts[b]
			}
			v += random.Float64()
			s.H = &histoWire{
				Schema: 3, ZeroThreshold: bits(math.Ldexp(1, -128)), Count: total, Sum: bits(v),
				PositiveSpans: [][2]int64{{-2, 5}, {3, 3}}, Positive: append([]uint64(nil), counts...),
			}
		} else {
			switch kind {
			case 0:
				v += float64(random.Intn(100)) // counter
			case 1:
				v += random.Float64() - 0.5 // gauge
			case 2:
				v = math.Round(v + float64(random.Intn(3)) - 1) // whole numbers
			}
			b := bits(v)
			s.V = &b
		}
		out = append(out, s)
	}
	return out
}

// writeRaw lays out a block from series whose chunks are given as bytes, in the order given, with Prometheus's own writers of
// chunk segments and of the index. The block's id is given, so that the request determines every byte.
func writeRaw(r struct {
	Dir    string       `json:"dir"`
	ULID   string       `json:"ulid"`
	Series []seriesWire `json:"series"`
	// SegmentSize: where segments are cut, in bytes; 0: Prometheus's own size.
	SegmentSize int64 `json:"segment_size"`
}) (any, error) {
	id, err := ulid.Parse(r.ULID)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(r.Dir, r.ULID)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	cw, err := chunks.NewWriter(filepath.Join(dir, "chunks"), chunks.WithSegmentSize(r.SegmentSize))
	if err != nil {
		return nil, err
	}
	iw, err := index.NewWriter(context.Background(), filepath.Join(dir, "index"))
	if err != nil {
		return nil, err
	}
	symbols := map[string]struct{}{}
	for _, s := range r.Series {
		for name, value := range s.Labels {
			symbols[name], symbols[value] = struct{}{}, struct{}{}
		}
	}
	for _, s := range sorted(symbols) {
		if err := iw.AddSymbol(s); err != nil {
			return nil, err
		}
	}
	meta := tsdb.BlockMeta{
		ULID: id, MinTime: math.MaxInt64, MaxTime: math.MinInt64, Version: 1,
		Compaction: tsdb.BlockMetaCompaction{Level: 1, Sources: []ulid.ULID{id}},
	}
	for i, s := range r.Series {
		var metas []chunks.Meta
		for _, w := range s.Chunks {
			c, err := w.chunk()
			if err != nil {
				return nil, err
			}
			metas = append(metas, chunks.Meta{MinTime: w.MinT, MaxTime: w.MaxT, Chunk: c})
			meta.MinTime, meta.MaxTime = min(meta.MinTime, w.MinT), max(meta.MaxTime, w.MaxT+1)
			meta.Stats.NumSamples += uint64(c.NumSamples())
		}
		if err := cw.WriteChunks(metas...); err != nil {
			return nil, err
		}
		if err := iw.AddSeries(storage.SeriesRef(i), labels.FromMap(s.Labels), metas...); err != nil {
			return nil, err
		}
		meta.Stats.NumSeries++
		meta.Stats.NumChunks += uint64(len(metas))
	}
	if err := cw.Close(); err != nil {
		return nil, err
	}
	if err := iw.Close(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(meta, "", "\t")
	if err != nil {
		return nil, err
	}
	return created(dir, os.WriteFile(filepath.Join(dir, "meta.json"), text, 0o666))
}

type stone struct {
	Ref  uint64 `json:"ref"`
	MinT int64  `json:"min_t"`
	MaxT int64  `json:"max_t"`
}

type stonesRequest struct {
	Dir    string  `json:"dir"`
	Stones []stone `json:"stones"`
}

// writeTombstones replaces a block's tombstones; readTombstones lists them.
func writeTombstones(r stonesRequest) (any, error) {
	mem := tombstones.NewMemTombstones()
	for _, s := range r.Stones {
		mem.AddInterval(storage.SeriesRef(s.Ref), tombstones.Interval{Mint: s.MinT, Maxt: s.MaxT})
	}
	n, err := tombstones.WriteFile(quiet, r.Dir, mem)
	return map[string]any{"bytes": n}, err
}

func readTombstones(r stonesRequest) (any, error) {
	reader, n, err := tombstones.ReadTombstones(r.Dir)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	out := []stone{}
	err = reader.Iter(func(ref storage.SeriesRef, in tombstones.Intervals) error {
		for _, i := range in {
			out = append(out, stone{uint64(ref), i.Mint, i.Maxt})
		}
		return nil
	})
	return map[string]any{"stones": out, "bytes": n}, err
}

// compact joins blocks with Prometheus's own compactor.
func compact(r struct {
	Dest string   `json:"dest"`
	Dirs []string `json:"dirs"`
}) (any, error) {
	ranges := tsdb.ExponentialBlockRanges(tsdb.DefaultBlockDuration, 3, 5)
	c, err := tsdb.NewLeveledCompactor(context.Background(), nil, quiet, ranges, chunkenc.NewPool(), nil)
	if err != nil {
		return nil, err
	}
	ids, err := c.Compact(r.Dest, r.Dirs, nil)
	return map[string]any{"ulids": ids}, err
}
