// Answers with Go's own regexp what Prometheus would say.
//
// One question a line: the expression, a template, values; one answer a line: either `E` and the error, or `M` and
// for each value `-` (no match) or the expanded template. Every field is in hexadecimal behind a `.`, so that an empty
// one is visible; fields are divided by blanks.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"regexp/syntax"
	"strings"
)

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		var fields []string
		for _, field := range strings.Fields(in.Text()) {
			text, err := hex.DecodeString(field[1:])
			if err != nil {
				fmt.Fprintln(os.Stderr, "not hexadecimal:", field)
				os.Exit(1)
			}
			fields = append(fields, string(text))
		}
		fmt.Fprintln(out, answer(fields[0], fields[1], fields[2:]))
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(expression, template string, values []string) string {
	tree, err := syntax.Parse(expression, syntax.Perl|syntax.DotNL)
	if err != nil {
		return "E " + field(err.Error())
	}
	re, err := regexp.Compile("^(?s:" + expression + ")$")
	if err != nil {
		// A quotation left open takes the closing parenthesis with it; a matcher compiles the printed tree instead.
		re, err = regexp.Compile("^(?s:" + tree.String() + ")$")
	}
	if err != nil {
		return "E " + field(err.Error())
	}
	answers := []string{"M"}
	for _, value := range values {
		groups := re.FindStringSubmatchIndex(value)
		if groups == nil {
			answers = append(answers, "-")
			continue
		}
		answers = append(answers, field(string(re.ExpandString(nil, template, value, groups))))
	}
	return strings.Join(answers, " ")
}

func field(text string) string {
	return "." + hex.EncodeToString([]byte(text))
}
