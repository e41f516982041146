// Command cel asks Kubernetes' own DRA library what CEL selectors say about devices.
//
//	go run .
//
// cases.yaml names devices and expressions. answers.tsv, written anew, has the version of the library, then a line per
// expression: the expression as a Go string literal and one answer per device: true, false, or why there is none. A
// selector that does not compile says so for all of them. Feature gates stand as Kubernetes 1.36 has them by default.
// With EXPLAIN set, the library's own words for every error go to standard error.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
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
	if err := run("cases.yaml", "answers.tsv"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run writes the answers only when there are all of them.
func run(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := answer(text, &out); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

// library is the module that answers, with its version.
func library() (string, error) {
	const path = "k8s.io/dynamic-resource-allocation"
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, module := range info.Deps {
			if module.Path == path {
				return module.Path + " " + module.Version, nil
			}
		}
	}
	return "", fmt.Errorf("this program was built without %s", path)
}

func answer(text []byte, w *bytes.Buffer) error {
	var asked cases
	if err := yaml.UnmarshalStrict(text, &asked); err != nil {
		return err
	}
	if len(asked.Order) != len(asked.Expressions) {
		return fmt.Errorf("order names %d of %d groups", len(asked.Order), len(asked.Expressions))
	}
	version, err := library()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "# %s\nexpression", version)
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
	return nil
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
