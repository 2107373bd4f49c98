package trail

import (
	"strings"

	"github.com/go-chi/chi/v5"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// fromPath takes the subject from a route's path: the last that it names.
func fromPath(rec *domain.AuditRecord, route *chi.Context) {
	before := ""
	for part := range strings.SplitSeq(route.RoutePattern(), "/") {
		name, is := strings.CutPrefix(part, "{")
		if !is {
			before = part
			continue
		}
		value := route.URLParam(strings.TrimSuffix(name, "}"))
		if before == "sandboxes" { // as E2B calls them
			before = "vms"
		}
		switch before {
		case "ports":
			continue // of a VM, which is the subject
		case "tags": // as a reference to a template has it
			rec.SubjectID += ":" + value
			continue
		}
		rec.SubjectKind, rec.SubjectID = singular(before), value
		if before == "vms" && domain.IsID(value) {
			rec.VMID = domain.ID(value)
		}
	}
}

// fromLocation takes the subject from where an answer says that it is.
func fromLocation(rec *domain.AuditRecord, location string) {
	rest, ours := strings.CutPrefix(location, wire.BasePath+"/")
	parts := strings.Split(rest, "/")
	if !ours || len(parts) < 2 {
		return
	}
	n := len(parts)
	rec.SubjectKind, rec.SubjectID = singular(parts[n-2]), parts[n-1]
	if rec.SubjectKind == "vm" {
		rec.VMID = domain.ID(rec.SubjectID)
	}
}

// singular is one of a collection.
func singular(collection string) string { return strings.TrimSuffix(collection, "s") }
