// Writes a small block with the storage library of Prometheus 2.12 (2019), whose index still has label indices.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/go-kit/kit/log"
	"github.com/prometheus/tsdb"
	"github.com/prometheus/tsdb/labels"
)

func main() {
	dir := os.Args[1]
	head, err := tsdb.NewHead(nil, log.NewNopLogger(), nil, 1000*3600*2)
	must(err)
	for i := range 40 {
		app := head.Appender()
		l := labels.FromStrings("__name__", "up", "instance", fmt.Sprintf("10.0.0.%d:9100", i), "job", []string{"node", "api"}[i%2])
		for k := range 150 {
			_, err := app.Add(l, int64(k)*15000, float64(i*1000+k))
			must(err)
		}
		must(app.Commit())
	}
	c, err := tsdb.NewLeveledCompactor(context.Background(), nil, log.NewNopLogger(), []int64{7200000}, nil)
	must(err)
	id, err := c.Write(dir, head, 0, 7200000, nil)
	must(err)
	fmt.Println(id)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
