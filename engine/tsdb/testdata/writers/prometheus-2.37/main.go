// Writes a small block with the storage library of Prometheus 2.37 (2022).
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/go-kit/log"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
)

func main() {
	dir := os.Args[1]
	w, err := tsdb.NewBlockWriter(log.NewNopLogger(), dir, 7200000)
	must(err)
	ctx := context.Background()
	for i := range 40 {
		app := w.Appender(ctx)
		l := labels.FromStrings("__name__", "up", "instance", fmt.Sprintf("10.0.0.%d:9100", i), "job", []string{"node", "api"}[i%2])
		for k := range 150 {
			_, err := app.Append(0, l, int64(k)*15000, float64(i*1000+k))
			must(err)
		}
		must(app.Commit())
	}
	id, err := w.Flush(ctx)
	must(err)
	must(w.Close())
	fmt.Println(id)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
