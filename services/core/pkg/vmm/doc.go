// Package vmm holds the two contracts around virtual machines: [Driver], the
// small one that a driver author writes, and [Orchestrator] (with the
// interfaces it is composed of), the rich one that everybody else uses.
// It contains no implementation.
package vmm
