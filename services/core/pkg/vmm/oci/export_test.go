package oci

// AttachLayers makes a driver mount roots in the way of kernels before Linux 6.15.
func AttachLayers(c *Config) { c.attachLayers = true }
