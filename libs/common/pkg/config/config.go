// Package config reads one YAML file and the environment into one typed
// struct. Unknown keys and bad values are refused, naming the line or the
// variable.
//
// The struct's fields carry `yaml:"name"` and `doc:"…"` tags. A field can be
// overridden by a variable named after its path: with the prefix AETHERIUM,
// `listen.address` is AETHERIUM_LISTEN_ADDRESS. What is in an embedded struct
// with the tag `yaml:",inline"` is as if it stood in the outer one. Defaults are
// what the struct holds when it is given.
package config

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// Load fills into, a pointer to a struct that holds the defaults, from a file
// (unless path is empty) and then from the environment, given as os.Environ
// gives it. Returns InvalidArgument, NotFound for the file.
func Load(into any, path, prefix string, environ []string) error {
	if path != "" {
		text, err := read(path)
		if err != nil {
			return err
		}
		if err := Parse(into, text); err != nil {
			return err
		}
	}
	return FromEnv(into, prefix, environ)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Wrap(err, errors.NotFound, "the configuration file %s cannot be opened", path)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the configuration file %s cannot be read", path)
	}
	if len(text) > maxFile {
		return nil, errors.New(errors.TooLarge, "the configuration file %s has more than %d bytes", path, maxFile)
	}
	return text, nil
}

// Parse fills into from YAML. An empty document changes nothing.
func Parse(into any, text []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return invalid(err)
	}
	if err := check(reflect.TypeOf(into).Elem(), &doc); err != nil {
		return err
	}
	if err := doc.Decode(into); err != nil {
		return invalid(err)
	}
	// What would be ignored silently is refused.
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New(errors.InvalidArgument, "the configuration is not valid: it must be one document")
	}
	return nil
}

// invalid passes on what the library says, which names the line.
func invalid(err error) error {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:")
	return errors.New(errors.InvalidArgument, "the configuration is not valid: %s", strings.Join(strings.Fields(text), " "))
}

// FromEnv fills into from variables that begin with prefix and an underscore.
// Variables that name no field are somebody else's.
func FromEnv(into any, prefix string, environ []string) error {
	fields := map[string]field{}
	for _, f := range walk(reflect.ValueOf(into).Elem(), nil) {
		fields[f.env(prefix)] = f
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		f, known := fields[name]
		if !known {
			continue
		}
		if err := set(f.value, value); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%s: %s", name, err.Error()).WithField(name)
		}
	}
	return nil
}

type field struct {
	path  []string
	doc   string
	value reflect.Value
}

func (f field) env(prefix string) string {
	return prefix + "_" + strings.ToUpper(strings.Join(f.path, "_"))
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// walk lists the leaves of a struct.
func walk(v reflect.Value, path []string) []field {
	var out []field
	for i := range v.NumField() {
		t := v.Type().Field(i)
		name, how, _ := strings.Cut(t.Tag.Get("yaml"), ",")
		if t.IsExported() && how == "inline" {
			out = append(out, walk(v.Field(i), path)...)
			continue
		}
		if !t.IsExported() || name == "" || name == "-" {
			continue
		}
		at := append(append([]string(nil), path...), name)
		fv := v.Field(i)
		if fv.Kind() == reflect.Struct && !fv.Addr().Type().Implements(textUnmarshaler) {
			out = append(out, walk(fv, at)...)
			continue
		}
		out = append(out, field{at, t.Tag.Get("doc"), fv})
	}
	return out
}

func set(v reflect.Value, s string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		v.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", s)
		}
		v.SetFloat(n)
	case reflect.Slice:
		if !reflect.TypeFor[string]().ConvertibleTo(v.Type().Elem()) {
			return fmt.Errorf("cannot be set by a variable")
		}
		list := reflect.MakeSlice(v.Type(), 0, 4)
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = reflect.Append(list, reflect.ValueOf(part).Convert(v.Type().Elem()))
			}
		}
		v.Set(list)
	default:
		return fmt.Errorf("cannot be set by a variable")
	}
	return nil
}

// Reference describes every setting as Markdown: key, variable, default and
// meaning. What is in a list of structs stands below it, and has no variable.
func Reference(defaults any, prefix string) string {
	var b strings.Builder
	b.WriteString("| key | variable | default | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range walk(reflect.ValueOf(defaults).Elem(), nil) {
		if f.value.Kind() == reflect.Slice && f.value.Type().Elem().Kind() == reflect.Struct {
			listed(&b, f)
			continue
		}
		def := fmt.Sprint(f.value.Interface())
		if def != "" && def != "[]" {
			def = "`" + def + "`"
		} else {
			def = ""
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", strings.Join(f.path, "."), f.env(prefix), def, f.doc)
	}
	return b.String()
}

// listed describes a list of structs and what is in one.
func listed(b *strings.Builder, f field) {
	path := strings.Join(f.path, ".")
	fmt.Fprintf(b, "| `%s` | | | %s |\n", path, f.doc)
	for _, in := range walk(reflect.New(f.value.Type().Elem()).Elem(), []string{path + "[]"}) {
		if in.value.Kind() == reflect.Slice && in.value.Type().Elem().Kind() == reflect.Struct {
			in.path = []string{strings.Join(in.path, ".")}
			listed(b, in)
			continue
		}
		fmt.Fprintf(b, "| `%s` | | | %s |\n", strings.Join(in.path, "."), in.doc)
	}
}
