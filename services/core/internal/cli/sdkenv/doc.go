// Package sdkenv makes the environment in which SDKs of other makes find this
// server and trust it: variables, and the files that they name.
package sdkenv
