// The program thanos-blocks lets tests ask Thanos's own library: what does it find in this block, what index-header does it
// build, how does it write this meta.json, what does its downsampling make of it.
//
// It reads requests from standard input, one JSON object a line with the operation in `op`, and answers each with a line:
// `{"ok": …}` or `{"error": "…"}`. All paths are the tests' own.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-kit/log"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/thanos-io/objstore/providers/filesystem"
	"github.com/thanos-io/thanos/pkg/block"
	"github.com/thanos-io/thanos/pkg/block/indexheader"
	"github.com/thanos-io/thanos/pkg/block/metadata"
	"github.com/thanos-io/thanos/pkg/compact/downsample"
	"github.com/thanos-io/thanos/pkg/logutil"
)

type request struct {
	Op string `json:"op"`
	// Dir is a block's folder; its parent is the bucket.
	Dir string `json:"dir"`
	// Dest is a file or folder that is written.
	Dest string `json:"dest"`
	// Resolution in milliseconds.
	Resolution int64 `json:"resolution"`
	// Metas are blocks that a question is about, without their files.
	Metas []*metadata.Meta `json:"metas"`
	// Excluded are those of them that have a no-compact mark.
	Excluded []ulid.ULID `json:"excluded"`
	// Ranges are the widths that blocks grow to, in milliseconds.
	Ranges []int64 `json:"ranges"`
	// Limit is the largest index in bytes.
	Limit int64 `json:"limit"`
}

var background = context.Background()

// health is what Thanos knows of an index.
func health(r request) (any, error) {
	meta, err := metadata.ReadFromDir(r.Dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(r.Dir, block.IndexFilename)
	stats, err := block.GatherIndexHealthStats(background, log.NewNopLogger(), path, meta.MinTime, meta.MaxTime)
	if err != nil {
		return nil, err
	}
	verdict := ""
	if err := stats.AnyErr(); err != nil {
		verdict = err.Error()
	}
	return map[string]any{"stats": stats, "verdict": verdict}, nil
}

// header builds the index-header of a block as the store gateway does, from a bucket.
func header(r request) (any, error) {
	bucket, err := filesystem.NewBucket(filepath.Dir(r.Dir))
	if err != nil {
		return nil, err
	}
	id, err := ulid.Parse(filepath.Base(r.Dir))
	if err != nil {
		return nil, err
	}
	_, err = indexheader.WriteBinary(background, bucket, id, r.Dest, prometheus.NewHistogram(prometheus.HistogramOpts{}))
	return r.Dest, err
}

// meta reads a block's meta.json and gives it as Thanos writes it.
func meta(r request) (any, error) {
	meta, err := metadata.ReadFromDir(r.Dir)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := meta.Write(&out); err != nil {
		return nil, err
	}
	return map[string]any{"text": out.String(), "group": meta.Thanos.GroupKey()}, nil
}

// reduce downsamples a block into the folder dest.
func reduce(r request) (any, error) {
	meta, err := metadata.ReadFromDir(r.Dir)
	if err != nil {
		return nil, err
	}
	logger := log.NewNopLogger()
	b, err := tsdb.OpenBlock(logutil.GoKitLogToSlog(logger), r.Dir, downsample.NewPool(), nil)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	id, err := downsample.Downsample(background, logger, meta, b, r.Dest, r.Resolution)
	return filepath.Join(r.Dest, id.String()), err
}

// answer runs one request. What panics in Thanos's library is an answer too.
func answer(line []byte) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, err
	}
	switch r.Op {
	case "health":
		return health(r)
	case "header":
		return header(r)
	case "meta":
		return meta(r)
	case "downsample":
		return reduce(r)
	case "plan":
		return plan(r)
	case "duplicates":
		return duplicates(r)
	}
	return nil, fmt.Errorf("there is no operation %q", r.Op)
}

func main() {
	in, out := bufio.NewReaderSize(os.Stdin, 1<<20), json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 1 {
			reply := map[string]any{}
			if ok, err := answer(line); err != nil {
				reply["error"] = err.Error()
			} else {
				reply["ok"] = ok
			}
			if err := out.Encode(reply); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
