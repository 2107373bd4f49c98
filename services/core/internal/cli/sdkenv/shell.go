package sdkenv

import (
	"encoding/json"
	"io"
	"strings"
)

// Environment is what is set, in order, and what must not be.
type Environment struct {
	Set   []Variable
	Unset []string
}

// Variable is one of an environment.
type Variable struct{ Name, Value string }

// Shells are the forms that an environment can be written in.
func Shells() []string { return []string{"sh", "fish", "json"} }

// Write writes an environment as a shell reads it, or as JSON.
func (e Environment) Write(w io.Writer, shell string) error {
	var b strings.Builder
	switch shell {
	case "json":
		values := make(map[string]string, len(e.Set))
		for _, v := range e.Set {
			values[v.Name] = v.Value
		}
		text, err := json.MarshalIndent(values, "", "  ")
		if err != nil {
			return err
		}
		b.Write(append(text, '\n'))
	case "fish":
		quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		for _, name := range e.Unset {
			b.WriteString("set -e " + name + ";\n")
		}
		for _, v := range e.Set {
			b.WriteString("set -gx " + v.Name + " '" + quote.Replace(v.Value) + "';\n")
		}
	default:
		for _, name := range e.Unset {
			b.WriteString("unset " + name + "\n")
		}
		for _, v := range e.Set {
			b.WriteString("export " + v.Name + "='" + strings.ReplaceAll(v.Value, "'", `'\''`) + "'\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
