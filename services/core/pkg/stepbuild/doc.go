// Package stepbuild carries out the steps of a template's build in a machine,
// and leaves out those whose layers are kept from earlier builds.
//
// It decides; what it needs of the node (a base, kept layers, a machine) is
// behind the interface Node. It keeps nothing itself: a build that is cut
// short and begun again goes on from the last layer that was kept.
package stepbuild
