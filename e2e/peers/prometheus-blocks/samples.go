package main

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// sample is one sample on the wire between the tests and this program. Floats travel as the integers of their bits, so that
// nothing is lost. Exactly one of V, H and FH is set.
type sample struct {
	T  int64      `json:"t"`
	ST int64      `json:"st,omitempty"`
	V  *uint64    `json:"v,omitempty"`
	H  *histoWire `json:"h,omitempty"`
	FH *histoWire `json:"fh,omitempty"`
}

// histoWire is a histogram on the wire. Counts are absolute: integers in H, bits of floats in FH.
type histoWire struct {
	Hint          uint8      `json:"hint"`
	Schema        int32      `json:"schema"`
	ZeroThreshold uint64     `json:"zero_threshold"`
	ZeroCount     uint64     `json:"zero_count"`
	Count         uint64     `json:"count"`
	Sum           uint64     `json:"sum"`
	PositiveSpans [][2]int64 `json:"positive_spans,omitempty"`
	NegativeSpans [][2]int64 `json:"negative_spans,omitempty"`
	Positive      []uint64   `json:"positive,omitempty"`
	Negative      []uint64   `json:"negative,omitempty"`
	Custom        []uint64   `json:"custom,omitempty"`
}

func bits(f float64) uint64  { return math.Float64bits(f) }
func float(b uint64) float64 { return math.Float64frombits(b) }

func spans(wire [][2]int64) []histogram.Span {
	var out []histogram.Span
	for _, s := range wire {
		out = append(out, histogram.Span{Offset: int32(s[0]), Length: uint32(s[1])})
	}
	return out
}

func wireSpans(in []histogram.Span) [][2]int64 {
	var out [][2]int64
	for _, s := range in {
		out = append(out, [2]int64{int64(s.Offset), int64(s.Length)})
	}
	return out
}

func each[A, B any](in []A, f func(A) B) []B {
	var out []B // empty stays nil: Prometheus tells the two apart
	for _, a := range in {
		out = append(out, f(a))
	}
	return out
}

// deltas turns absolute counts into the differences that Prometheus keeps; counts does the opposite.
func deltas(in []uint64) []int64 {
	last := uint64(0)
	return each(in, func(n uint64) int64 {
		d := int64(n - last)
		last = n
		return d
	})
}

func counts(in []int64) []uint64 {
	sum := uint64(0)
	return each(in, func(d int64) uint64 {
		sum += uint64(d)
		return sum
	})
}

func (w *histoWire) integer() *histogram.Histogram {
	return &histogram.Histogram{
		CounterResetHint: histogram.CounterResetHint(w.Hint),
		Schema:           w.Schema,
		ZeroThreshold:    float(w.ZeroThreshold),
		ZeroCount:        w.ZeroCount,
		Count:            w.Count,
		Sum:              float(w.Sum),
		PositiveSpans:    spans(w.PositiveSpans),
		NegativeSpans:    spans(w.NegativeSpans),
		PositiveBuckets:  deltas(w.Positive),
		NegativeBuckets:  deltas(w.Negative),
		CustomValues:     each(w.Custom, float),
	}
}

func (w *histoWire) float() *histogram.FloatHistogram {
	return &histogram.FloatHistogram{
		CounterResetHint: histogram.CounterResetHint(w.Hint),
		Schema:           w.Schema,
		ZeroThreshold:    float(w.ZeroThreshold),
		ZeroCount:        float(w.ZeroCount),
		Count:            float(w.Count),
		Sum:              float(w.Sum),
		PositiveSpans:    spans(w.PositiveSpans),
		NegativeSpans:    spans(w.NegativeSpans),
		PositiveBuckets:  each(w.Positive, float),
		NegativeBuckets:  each(w.Negative, float),
		CustomValues:     each(w.Custom, float),
	}
}

// at reads the sample that the iterator stands on.
func at(it chunkenc.Iterator, typ chunkenc.ValueType) (sample, error) {
	s := sample{ST: it.AtST()}
	switch typ {
	case chunkenc.ValFloat:
		t, v := it.At()
		b := bits(v)
		s.T, s.V = t, &b
	case chunkenc.ValHistogram:
		t, h := it.AtHistogram(nil)
		s.T, s.H = t, &histoWire{
			Hint: uint8(h.CounterResetHint), Schema: h.Schema, ZeroThreshold: bits(h.ZeroThreshold),
			ZeroCount: h.ZeroCount, Count: h.Count, Sum: bits(h.Sum),
			PositiveSpans: wireSpans(h.PositiveSpans), NegativeSpans: wireSpans(h.NegativeSpans),
			Positive: counts(h.PositiveBuckets), Negative: counts(h.NegativeBuckets), Custom: each(h.CustomValues, bits),
		}
	case chunkenc.ValFloatHistogram:
		t, h := it.AtFloatHistogram(nil)
		s.T, s.FH = t, &histoWire{
			Hint: uint8(h.CounterResetHint), Schema: h.Schema, ZeroThreshold: bits(h.ZeroThreshold),
			ZeroCount: bits(h.ZeroCount), Count: bits(h.Count), Sum: bits(h.Sum),
			PositiveSpans: wireSpans(h.PositiveSpans), NegativeSpans: wireSpans(h.NegativeSpans),
			Positive: each(h.PositiveBuckets, bits), Negative: each(h.NegativeBuckets, bits), Custom: each(h.CustomValues, bits),
		}
	default:
		return s, fmt.Errorf("unknown sample type %s", typ)
	}
	return s, nil
}

func (s sample) typ() chunkenc.ValueType {
	switch {
	case s.H != nil:
		return chunkenc.ValHistogram
	case s.FH != nil:
		return chunkenc.ValFloatHistogram
	case s.V != nil:
		return chunkenc.ValFloat
	}
	return chunkenc.ValNone
}

// sampleIterator gives described samples as Prometheus's own iterator.
type sampleIterator struct {
	samples []sample
	next    int
}

func (i *sampleIterator) current() sample { return i.samples[i.next-1] }

func (i *sampleIterator) Next() chunkenc.ValueType {
	if i.next == len(i.samples) {
		return chunkenc.ValNone
	}
	i.next++
	return i.current().typ()
}

func (i *sampleIterator) Seek(t int64) chunkenc.ValueType {
	if i.next > 0 && i.current().T >= t {
		return i.current().typ()
	}
	for typ := i.Next(); typ != chunkenc.ValNone; typ = i.Next() {
		if i.current().T >= t {
			return typ
		}
	}
	return chunkenc.ValNone
}

func (i *sampleIterator) At() (int64, float64) { return i.current().T, float(*i.current().V) }

func (i *sampleIterator) AtHistogram(*histogram.Histogram) (int64, *histogram.Histogram) {
	return i.current().T, i.current().H.integer()
}

func (i *sampleIterator) AtFloatHistogram(*histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	if i.current().H != nil {
		return i.current().T, i.current().H.integer().ToFloat(nil)
	}
	return i.current().T, i.current().FH.float()
}

func (i *sampleIterator) AtT() int64  { return i.current().T }
func (i *sampleIterator) AtST() int64 { return i.current().ST }
func (*sampleIterator) Err() error    { return nil }
