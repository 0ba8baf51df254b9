// The program prometheus-blocks lets tests ask Prometheus's own storage library: what bytes does it make of these samples, what
// samples does it read in these bytes, what is in this block.
//
// It reads requests from standard input, one JSON object a line with the operation in `op`, and answers each with a line:
// `{"ok": …}` or `{"error": "…"}`. The structs in this folder are the protocol; all paths are the tests' own.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

var operations = map[string]func(json.RawMessage) (any, error){
	"encode":           of(encode),
	"recode":           of(recode),
	"decode":           of(decode),
	"bench":            of(bench),
	"block":            of(block),
	"scan":             of(scan),
	"write":            of(write),
	"write_raw":        of(writeRaw),
	"generate":         of(generate),
	"write_tombstones": of(writeTombstones),
	"read_tombstones":  of(readTombstones),
	"compact":          of(compact),
}

func of[R any](f func(R) (any, error)) func(json.RawMessage) (any, error) {
	return func(line json.RawMessage) (any, error) {
		var r R
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, err
		}
		return f(r)
	}
}

func sorted(set map[string]struct{}) []string {
	return slices.Sorted(maps.Keys(set))
}

// answer runs one request. What panics in Prometheus's library is an answer too.
func answer(line []byte) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	var head struct {
		Op string `json:"op"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, err
	}
	f, ok := operations[head.Op]
	if !ok {
		return nil, fmt.Errorf("there is no operation %q", head.Op)
	}
	return f(line)
}

func run() error {
	in, out := bufio.NewReaderSize(os.Stdin, 1<<20), bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 1 {
			reply := map[string]any{}
			if ok, err := answer(line); err != nil {
				reply["error"] = err.Error()
			} else {
				reply["ok"] = ok
			}
			if err := json.NewEncoder(out).Encode(reply); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "prometheus-blocks:", err)
		os.Exit(1)
	}
}
