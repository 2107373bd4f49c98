package storage

import "github.com/aetherium/aetherium/libs/types/pkg/domain"

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

// SealedSecret is the place of a stored secret's value. Project and name are
// part of it: whoever can write rows cannot give a secret another name, under
// which it would go elsewhere.
func SealedSecret(s *domain.Secret) string {
	return "secrets/" + string(s.ID) + "/value/" + string(s.ProjectID) + "/" + s.Name
}
