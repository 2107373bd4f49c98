package sqlrepo

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type sealed struct{ s Session }

// sealedColumn is where sealed values are. Rows are of a project, and go by
// "ID/project", or the installation's, and go by their key.
type sealedColumn struct {
	table, column string
	key           string // of the installation's rows
	only          string // of the rows; text is base64
}

func (c sealedColumn) String() string { return c.table + "." + c.column }

func sealedColumns() []sealedColumn {
	return []sealedColumn{
		{table: "vms", column: "env_sealed"},
		{table: "vms", column: "token_sealed"},
		{table: "executions", column: "command_sealed"},
		{table: "output_packs", column: "key_sealed"},
		{table: "archives", column: "key_sealed"},
		{table: "snapshots", column: "env_sealed"},
		{table: "secrets", column: "sealed"},
		{table: "volumes", column: "token_sealed"},
		{table: "tasks", column: "spec_sealed"},
		{table: "webhooks", column: "secret_sealed"},
		{table: "answers", column: "answer_sealed"},
		{table: "settings", column: "value", key: "key", only: "key LIKE '" + storage.SealedSettings + "%'"},
	}
}

func findSealed(name string) (sealedColumn, error) {
	for _, c := range sealedColumns() {
		if c.String() == name {
			return c, nil
		}
	}
	return sealedColumn{}, errors.New(errors.InvalidArgument, "there is no sealed column %q", name)
}

func (r sealed) Columns() []string {
	var names []string
	for _, c := range sealedColumns() {
		names = append(names, c.String())
	}
	return names
}

func (r sealed) Page(ctx context.Context, column, after string, limit int) ([]storage.SealedValue, error) {
	c, err := findSealed(column)
	if err != nil {
		return nil, err
	}
	w := &where{}
	w.add(c.column + " IS NOT NULL")
	keys := "id, project_id"
	if c.key != "" {
		keys = c.key
		w.add(c.only)
	}
	if after != "" {
		w.add("("+keys+") > ("+marks(keys)+")", c.rowKeys(after)...)
	}
	var out []storage.SealedValue
	err = r.s.Query(ctx, func(row Row) error {
		var v storage.SealedValue
		if c.key != "" {
			var text string
			if err := row.Scan(&v.Row, &text); err != nil {
				return err
			}
			if b, err := base64.StdEncoding.DecodeString(text); err == nil {
				v.Sealed = b // else it is no sealed value, which none shows
			}
			out = append(out, v)
			return nil
		}
		var id, project string
		if err := row.Scan(&id, &project, &v.Sealed); err != nil {
			return err
		}
		v.Row = id + "/" + project
		out = append(out, v)
		return nil
	}, "SELECT "+keys+", "+c.column+" FROM "+c.table+w.String()+" ORDER BY "+keys+" LIMIT ?", append(w.args, clampLimit(limit))...)
	return out, err
}

// rowKeys takes a row's name apart.
func (c sealedColumn) rowKeys(row string) []any {
	if c.key != "" {
		return []any{row}
	}
	id, project, _ := strings.Cut(row, "/")
	return []any{id, project}
}

func (r sealed) Replace(ctx context.Context, column, row string, was, is []byte) (bool, error) {
	c, err := findSealed(column)
	if err != nil {
		return false, err
	}
	keys, old, value := "(id, project_id) = (?, ?)", any(was), any(is)
	if c.key != "" {
		keys, old, value = c.key+" = ?", base64.StdEncoding.EncodeToString(was), base64.StdEncoding.EncodeToString(is)
	}
	args := append(append([]any{value}, c.rowKeys(row)...), old)
	n, err := r.s.Exec(ctx, "UPDATE "+c.table+" SET "+c.column+" = ? WHERE "+keys+" AND "+c.column+" = ?", args...)
	return n > 0, err
}
