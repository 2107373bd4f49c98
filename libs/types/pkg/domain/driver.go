package domain

// DriverAuto asks for whichever driver can be used and isolates as is asked for.
const DriverAuto = "auto"

// Drivers are the drivers that there are, in the order in which auto tries them:
// what starts fastest for its strength comes first.
func Drivers() []string { return []string{"oci", "firecracker", "qemu", "docker"} }
