package storage

import (
	"context"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// The places of sealed values. A value sealed for one place does not open in
// another, so rows cannot be mixed up behind the key's back.

// SealedVMEnv is the place of a VM's environment.
func SealedVMEnv(id domain.ID) string { return "vms/" + string(id) + "/env" }

// SealedVMToken is the place of a VM's preview token.
func SealedVMToken(id domain.ID) string { return "vms/" + string(id) + "/token" }

// SealedSnapshotEnv is the place of the environment kept with a snapshot.
func SealedSnapshotEnv(id domain.ID) string { return "snapshots/" + string(id) + "/env" }

// SealedCommand is the place of an execution's command.
func SealedCommand(id domain.ID) string { return "executions/" + string(id) + "/command" }

// SealedOutputKey is the place of the key that output in the storage is under.
func SealedOutputKey(project, id domain.ID) string {
	return "output_packs/" + string(id) + "/key/" + string(project)
}

// SealedArchiveKey is the place of the key that an archive's content is under.
func SealedArchiveKey(project, id domain.ID) string {
	return "archives/" + string(id) + "/key/" + string(project)
}

// SealedSecret is the place of a stored secret's value. Project and name are
// part of it: whoever can write rows cannot give a secret another name, under
// which it would go elsewhere.
func SealedSecret(s *domain.Secret) string {
	return "secrets/" + string(s.ID) + "/value/" + string(s.ProjectID) + "/" + s.Name
}

// SealedVolumeToken is the place of the token that opens a volume's content.
func SealedVolumeToken(id domain.ID) string { return "volumes/" + string(id) + "/token" }

// SealedTaskSpec is the place of what a run does.
func SealedTaskSpec(id domain.ID) string { return "tasks/" + string(id) + "/spec" }

// SealedWebhook is the place of what a webhook's messages are signed with.
func SealedWebhook(project, id domain.ID) string {
	return "webhooks/" + string(id) + "/secret/" + string(project)
}

// SealedAnswer is the place of the answer to a request with an idempotency key.
func SealedAnswer(project, id domain.ID) string {
	return "answers/" + string(id) + "/answer/" + string(project)
}

// SealedSetting is the place of a setting that is a secret. Such settings have
// keys that begin with SealedSettings, and values in standard base64.
func SealedSetting(key string) string { return "settings/" + key }

// SealedSettings begins the keys of settings whose values are sealed.
const SealedSettings = "sealed."

// Sealed is every sealed value of the store whatever it is of, for changing the
// keys that they are under. A column's name contains "sealed" if, and only if,
// its values are.
type Sealed interface {
	// Columns lists where sealed values are.
	Columns() []string
	// Page lists at most limit values of a column in the order of their rows,
	// from behind a row on; empty: from the first. Returns InvalidArgument.
	Page(ctx context.Context, column, after string, limit int) ([]SealedValue, error)
	// Replace gives a value another form and changes nothing else. It reports
	// false when the value is not what it was. Returns InvalidArgument.
	Replace(ctx context.Context, column, row string, was, is []byte) (bool, error)
}

// SealedValue is one value and the row that it is in, by a name of the store's own.
type SealedValue struct {
	Row    string
	Sealed []byte
}
