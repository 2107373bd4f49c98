package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

var yamlUnmarshaler = reflect.TypeFor[yaml.Unmarshaler]()

// words are true and false in YAML 1.1, which the decoder takes where one of them
// belongs.
var words = []string{"y", "Y", "yes", "on", "n", "N", "no", "off"}

// check refuses in a document what t, a struct of settings, has no place for: keys
// that name no setting, and values of another type. The library's decoder says
// that in Go's types and without the setting's name, and cuts 2.5 to 2 where a
// whole number belongs. Returns InvalidArgument.
func check(t reflect.Type, n *yaml.Node) error { return checkBelow(t, n, nil, 0) }

// maxDepth is deeper than settings are: a value that contains itself is left to the
// decoder, which says so.
const maxDepth = 64

func checkBelow(t reflect.Type, n *yaml.Node, path []string, depth int) error {
	if depth++; depth > maxDepth {
		return nil
	}
	for n.Kind == yaml.AliasNode || n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		} else {
			n = n.Content[0]
		}
	}
	if own := reflect.PointerTo(t); own.Implements(yamlUnmarshaler) || own.Implements(textUnmarshaler) || n.Tag == "!!null" {
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		return checkKeys(t, n, path, depth)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return wrong(n, path, "a list belongs there")
		}
		for _, item := range n.Content {
			if err := checkBelow(t.Elem(), item, path, depth); err != nil {
				return err
			}
		}
		return nil
	case reflect.Bool:
		if n.Tag == "!!str" && slices.Contains(words, n.Value) {
			return nil
		}
		return checkValue(n, path, "neither true nor false", "!!bool")
	case reflect.Int, reflect.Int64:
		if v, err := strconv.ParseFloat(n.Value, 64); n.Tag == "!!float" && err == nil && v == math.Trunc(v) {
			return nil // as 1e3
		}
		return checkValue(n, path, "not a whole number", "!!int")
	case reflect.Float64:
		return checkValue(n, path, "not a number", "!!float", "!!int")
	case reflect.String:
		if n.Kind != yaml.ScalarNode {
			return wrong(n, path, "a single value belongs there")
		}
	}
	return nil
}

func checkKeys(t reflect.Type, n *yaml.Node, path []string, depth int) error {
	if n.Kind != yaml.MappingNode {
		return wrong(n, path, "settings belong there, each as NAME: VALUE")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			if value.Kind == yaml.SequenceNode { // of several, each is looked at
				for _, v := range value.Content {
					if err := checkBelow(t, v, path, depth); err != nil {
						return err
					}
				}
				continue
			}
			if err := checkBelow(t, value, path, depth); err != nil {
				return err
			}
			continue
		}
		at := append(append([]string(nil), path...), key.Value)
		of, ok := typeOf(t, key.Value)
		if !ok {
			return errors.New(errors.InvalidArgument, "the configuration is not valid: line %d: there is no setting %s", key.Line, strings.Join(at, ".")).
				WithHint("the program's command `reference` lists the settings")
		}
		if err := checkBelow(of, value, at, depth); err != nil {
			return err
		}
	}
	return nil
}

// typeOf finds a key's field in a struct.
func typeOf(t reflect.Type, key string) (reflect.Type, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, how, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if f.IsExported() && how == "inline" {
			if of, ok := typeOf(f.Type, key); ok {
				return of, true
			}
			continue
		}
		if f.IsExported() && name == key && name != "" && name != "-" {
			return f.Type, true
		}
	}
	return nil, false
}

func checkValue(n *yaml.Node, path []string, not string, tags ...string) error {
	if n.Kind == yaml.ScalarNode {
		if slices.Contains(tags, n.Tag) {
			return nil
		}
		return wrong(n, path, fmt.Sprintf("%q is %s", n.Value, not))
	}
	return wrong(n, path, "a single value belongs there")
}

// wrong names the line and, but for the whole document, the setting.
func wrong(n *yaml.Node, path []string, what string) error {
	at := ""
	if len(path) > 0 {
		at = strings.Join(path, ".") + ": "
	}
	return errors.New(errors.InvalidArgument, "the configuration is not valid: line %d: %s%s", n.Line, at, what)
}
