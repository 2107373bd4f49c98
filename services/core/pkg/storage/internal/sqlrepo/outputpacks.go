package sqlrepo

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

type outputPacks struct{ s Session }

const (
	packColumns = "id, project_id, packed, key_sealed, created_at"
	packSelect  = "SELECT " + packColumns + " FROM output_packs"
	// packRows is how many rows one statement tells where their output is: others
	// wait for their turn meanwhile.
	packRows   = 200
	packUnused = "NOT EXISTS (SELECT 1 FROM executions x WHERE x.pack_id = output_packs.id AND x.pack_id <> '' AND x.project_id = output_packs.project_id)"
)

func scanPack(r Row) (*domain.OutputPack, error) {
	p := new(domain.OutputPack)
	return p, r.Scan(&p.ID, &p.ProjectID, jsonText{&p.Packed}, &p.KeySealed, scanTime{&p.CreatedAt})
}

func (r outputPacks) Get(ctx context.Context, project, id domain.ID) (*domain.OutputPack, error) {
	w := where{}
	w.add("id = ?", string(id))
	w.eq("project_id", project)
	return queryOne(ctx, r.s, scanPack, notFound("output", id), packSelect+w.String(), w.args...)
}

func (r outputPacks) Insert(ctx context.Context, p *domain.OutputPack, of ...*domain.Execution) (int, error) {
	var used int64
	for some := range slices.Chunk(of, packRows) {
		var which []string
		args := []any{}
		for _, x := range some {
			which = append(which, "id = ? AND project_id = ? AND vm_id = ? AND epoch = ?")
			args = append(args, string(x.ID), string(p.ProjectID), string(x.VMID), x.Epoch)
		}
		w := &where{}
		w.add("("+strings.Join(which, " OR ")+")", args...)
		w.add("ended_at IS NOT NULL AND pack_id = ''")
		n, err := r.s.Exec(ctx, "UPDATE executions SET pack_id = ?"+w.String(), append([]any{string(p.ID)}, w.args...)...)
		if err != nil {
			return 0, fault(err, "telling where output is")
		}
		used += n
	}
	if used == 0 {
		return 0, nil
	}
	_, err := r.s.Exec(ctx, "INSERT INTO output_packs ("+packColumns+") VALUES ("+marks(packColumns)+")",
		string(p.ID), string(p.ProjectID), jsonText{p.Packed}, blob(p.KeySealed), micros(p.CreatedAt))
	if violated(err, Unique) {
		return 0, errors.Wrap(err, errors.AlreadyExists, "output %s exists already", p.ID)
	}
	return int(used), fault(err, "telling where output is")
}

func (r outputPacks) List(ctx context.Context, p storage.Page) (storage.List[*domain.OutputPack], error) {
	return page(ctx, r.s, packSelect, &where{}, p, scanPack, func(p *domain.OutputPack) (time.Time, domain.ID) { return p.CreatedAt, p.ID })
}

func (r outputPacks) Unused(ctx context.Context, ids ...domain.ID) ([]*domain.OutputPack, error) {
	return r.unused(ctx, packSelect, "", ids)
}

func (r outputPacks) DeleteUnused(ctx context.Context, ids ...domain.ID) ([]*domain.OutputPack, error) {
	gone, err := r.unused(ctx, "DELETE FROM output_packs", " RETURNING "+packColumns, ids)
	return gone, fault(err, "deleting output")
}

// unused runs a statement for those of some packs that are.
func (r outputPacks) unused(ctx context.Context, what, and string, ids []domain.ID) ([]*domain.OutputPack, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	if len(ids) > storage.MaxPage {
		return nil, errors.New(errors.InvalidArgument, "%d packs are asked for at once", len(ids))
	}
	w := &where{}
	anyOf(w, "id", ids)
	w.add(packUnused)
	return queryAll(ctx, r.s, scanPack, what+w.String()+and, w.args...)
}
