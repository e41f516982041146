// Command cel asks Kubernetes' own DRA library what CEL selectors say about devices.
//
//	go run . < cases.yaml > answers.tsv
//
// The input names devices and expressions. The output has a line per expression: the expression as a Go string literal,
// then one answer per device: true, false, or why there is none. A selector that does not compile says so for all of them.
// Feature gates stand as Kubernetes 1.36 has them by default.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/cel"
	"sigs.k8s.io/yaml"
)

type device struct {
	Name                     string                                                    `json:"name"`
	Driver                   string                                                    `json:"driver"`
	AllowMultipleAllocations *bool                                                     `json:"allowMultipleAllocations"`
	Attributes               map[resourceapi.QualifiedName]resourceapi.DeviceAttribute `json:"attributes"`
	Capacity                 map[resourceapi.QualifiedName]resourceapi.DeviceCapacity  `json:"capacity"`
}

type cases struct {
	Devices     []device            `json:"devices"`
	Expressions map[string][]string `json:"expressions"`
	Order       []string            `json:"order"`
}

func main() {
	if err := answer(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	var asked cases
	if err := yaml.UnmarshalStrict(text, &asked); err != nil {
		return fmt.Errorf("cases: %w", err)
	}
	if len(asked.Order) != len(asked.Expressions) {
		return fmt.Errorf("order names %d of %d groups", len(asked.Order), len(asked.Expressions))
	}
	w := bufio.NewWriter(out)
	fmt.Fprint(w, "expression")
	for _, d := range asked.Devices {
		fmt.Fprintf(w, "\t%s", d.Name)
	}
	fmt.Fprintln(w)
	compiler := cel.GetCompiler(cel.Features{EnableConsumableCapacity: true})
	for _, group := range asked.Order {
		fmt.Fprintf(w, "# %s\n", group)
		for _, expression := range asked.Expressions[group] {
			fmt.Fprint(w, strconv.Quote(expression))
			compiled := compiler.CompileCELExpression(expression, cel.Options{})
			for _, d := range asked.Devices {
				fmt.Fprintf(w, "\t%s", ask(compiled, d))
			}
			if os.Getenv("EXPLAIN") != "" && compiled.Error != nil {
				fmt.Fprintf(os.Stderr, "%s: %s\n", expression, compiled.Error.Detail)
			}
			fmt.Fprintln(w)
		}
	}
	return w.Flush()
}

func ask(compiled cel.CompilationResult, d device) string {
	if compiled.Error != nil {
		return "compile error"
	}
	selected, _, err := compiled.DeviceMatches(context.Background(), cel.Device{
		Driver:                   d.Driver,
		AllowMultipleAllocations: d.AllowMultipleAllocations,
		Attributes:               d.Attributes,
		Capacity:                 d.Capacity,
	})
	if err == nil {
		return strconv.FormatBool(selected)
	}
	if os.Getenv("EXPLAIN") != "" {
		fmt.Fprintf(os.Stderr, "%s on %s: %v\n", compiled.Expression, d.Name, err)
	}
	for _, class := range []string{"no such key", "no such overload", "cost limit exceeded"} {
		if strings.Contains(err.Error(), class) {
			return class
		}
	}
	return "error"
}
