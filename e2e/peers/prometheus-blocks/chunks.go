package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// chunkWire is a chunk on the wire, its bytes in hexadecimal digits.
type chunkWire struct {
	MinT     int64  `json:"min_t"`
	MaxT     int64  `json:"max_t"`
	Encoding uint8  `json:"encoding"`
	Data     string `json:"data"`
	Samples  int    `json:"samples"`
}

func (w chunkWire) chunk() (chunkenc.Chunk, error) {
	data, err := hex.DecodeString(w.Data)
	if err != nil {
		return nil, err
	}
	if w.Encoding == 0xff {
		return container(data), nil
	}
	return chunkenc.FromData(chunkenc.Encoding(w.Encoding), data)
}

// container is a chunk whose inside Prometheus does not know; writers only pass its bytes on.
type container []byte

func (c container) Bytes() []byte             { return c }
func (container) Encoding() chunkenc.Encoding { return 0xff }
func (container) Appender() (chunkenc.Appender, error) {
	return nil, errors.New("a container has no appender")
}
func (container) Iterator(chunkenc.Iterator) chunkenc.Iterator { return chunkenc.NewNopIterator() }
func (container) NumSamples() int                              { return 0 }
func (container) Compact()                                     {}
func (container) Reset([]byte)                                 {}

type encodeRequest struct {
	// Encoding of the first chunk and of each one that is begun because of Cut.
	Encoding uint8    `json:"encoding"`
	Samples  []sample `json:"samples"`
	// Cut begins a new chunk after so many samples; 0 never does.
	Cut int `json:"cut"`
	// Prev hands the appender of the chunk before to a chunk begun because of Cut, as Prometheus's head does.
	Prev bool `json:"prev"`
}

// encode feeds samples to Prometheus's appenders.
func encode(r encodeRequest) (any, error) {
	var out []chunkWire
	var chunk chunkenc.Chunk
	var app, prev chunkenc.Appender
	minT, maxT := int64(0), int64(0)
	done := func() {
		if chunk != nil {
			out = append(out, chunkWire{minT, maxT, uint8(chunk.Encoding()), hex.EncodeToString(chunk.Bytes()), chunk.NumSamples()})
		}
	}
	for i, s := range r.Samples {
		var err error
		if chunk == nil || r.Cut > 0 && chunk.NumSamples() >= r.Cut {
			done()
			if chunk, err = chunkenc.NewEmptyChunk(chunkenc.Encoding(r.Encoding)); err != nil {
				return nil, err
			}
			prev = nil
			if r.Prev {
				prev = app
			}
			if app, err = chunk.Appender(); err != nil {
				return nil, err
			}
			minT = s.T
		}
		var other chunkenc.Chunk
		var recoded bool
		switch s.typ() {
		case chunkenc.ValFloat:
			app.Append(s.ST, s.T, float(*s.V))
		case chunkenc.ValHistogram:
			other, recoded, app, err = app.AppendHistogram(prev, s.ST, s.T, s.H.integer(), false)
		case chunkenc.ValFloatHistogram:
			other, recoded, app, err = app.AppendFloatHistogram(prev, s.ST, s.T, s.FH.float(), false)
		default:
			err = errors.New("it has no value")
		}
		if err != nil {
			return nil, fmt.Errorf("sample %d: %w", i, err)
		}
		if other != nil && !recoded {
			done()
			minT = s.T
		}
		if other != nil {
			chunk = other
		}
		maxT = s.T
	}
	done()
	return map[string]any{"chunks": out}, nil
}

type samplesRequest struct {
	Samples []sample `json:"samples"`
	Xor2    bool     `json:"xor2"`
}

// recode cuts samples into chunks as Prometheus does when it merges or rewrites series.
func recode(r samplesRequest) (any, error) {
	series := storage.SeriesEntry{
		Lset:             labels.EmptyLabels(),
		SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator { return &sampleIterator{samples: r.Samples} },
	}
	encoding := chunkenc.EncXOR
	if r.Xor2 {
		encoding = chunkenc.EncXOR2
	}
	var out []chunkWire
	it := storage.NewSeriesToChunkEncoderWithFloatEncoding(&series, encoding).Iterator(nil)
	for it.Next() {
		m := it.At()
		out = append(out, chunkWire{m.MinTime, m.MaxTime, uint8(m.Chunk.Encoding()), hex.EncodeToString(m.Chunk.Bytes()), m.Chunk.NumSamples()})
	}
	return map[string]any{"chunks": out}, it.Err()
}

// decode reads a chunk with Prometheus's iterator.
func decode(w chunkWire) (any, error) {
	chunk, err := w.chunk()
	if err != nil {
		return nil, err
	}
	samples := []sample{}
	it := chunk.Iterator(nil)
	for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
		s, err := at(it, typ)
		if err != nil {
			return nil, err
		}
		samples = append(samples, s)
	}
	return map[string]any{"samples": samples}, it.Err()
}

type benchRequest struct {
	Chunks []chunkWire `json:"chunks"`
	Rounds int         `json:"rounds"`
}

// bench times Prometheus's iterators, reusing one of them, and its appenders for floats.
func bench(r benchRequest) (any, error) {
	var chunks []chunkenc.Chunk
	for _, w := range r.Chunks {
		c, err := w.chunk()
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, c)
	}
	var it chunkenc.Iterator
	samples, sum := 0, 0.0
	start := time.Now()
	for range r.Rounds {
		for _, c := range chunks {
			it = c.Iterator(it)
			for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
				switch typ {
				case chunkenc.ValFloat:
					_, v := it.At()
					sum += v
				default:
					_, h := it.AtFloatHistogram(nil)
					sum += h.Sum
				}
				samples++
			}
		}
	}
	return map[string]any{"nanoseconds": time.Since(start).Nanoseconds(), "samples": samples, "sum": bits(sum)}, nil
}
