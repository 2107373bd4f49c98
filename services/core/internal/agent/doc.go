// Package agent is the guest agent: what runs in every VM and does there what
// its host asks. It serves, over any listener,
//
//   - aetherium.guest.v1 (executions, the machine) and /aetherium/ (files, trees,
//     ports) to the host;
//   - what SDKs of the field speak (process.Process, filesystem.Filesystem,
//     /files, /health, /metrics, /envs, /init).
//
// The host's channel needs no credentials: the host bound it and no process of
// the guest can reach it. The SDKs' half checks the machine's access token
// everywhere; it alone is served on listeners that guests can reach.
package agent
