package e2b

import (
	"encoding/json"
	"time"
)

// What goes over the wire, as E2B's SDKs name it.
type (
	createBody struct {
		TemplateID          string            `json:"templateID"`
		Timeout             *int64            `json:"timeout"` // seconds
		Metadata            map[string]string `json:"metadata"`
		EnvVars             map[string]string `json:"envVars"`
		AllowInternetAccess *bool             `json:"allow_internet_access"`
		Network             *network          `json:"network"`
		AutoPause           bool              `json:"autoPause"`
		AutoPauseMemory     *bool             `json:"autoPauseMemory"`
		AutoResume          *autoResume       `json:"autoResume"`
		VolumeMounts        []volumeMount     `json:"volumeMounts"`
		IAM                 json.RawMessage   `json:"iam"`
	}

	autoResume struct {
		Enabled bool `json:"enabled"`
	}

	volumeMount struct {
		Name string `json:"name"`
		Path string `json:"path"`
	}

	network struct {
		AllowPublicTraffic *bool             `json:"allowPublicTraffic,omitempty"`
		AllowOut           []string          `json:"allowOut,omitempty"`
		DenyOut            []string          `json:"denyOut,omitempty"`
		DNSServers         []string          `json:"dnsServers,omitempty"` // nil: the default; empty: none
		EgressProxy        *egressProxy      `json:"egressProxy,omitempty"`
		MaskRequestHost    string            `json:"maskRequestHost,omitempty"`
		HTTPSPorts         []int             `json:"httpsPorts,omitempty"`
		Rules              map[string][]rule `json:"rules,omitempty"` // by host
	}

	egressProxy struct {
		Address  string          `json:"address"`
		Username string          `json:"username,omitempty"`
		Password string          `json:"password,omitempty"` // never told
		TLS      json.RawMessage `json:"tls,omitempty"`
	}

	// rule is what is done to requests to a host; an empty one does nothing.
	rule struct {
		Transform *transform `json:"transform,omitempty"`
	}

	transform struct {
		Headers map[string]string `json:"headers,omitempty"`
	}

	networkBody struct {
		network
		AllowInternetAccess *bool `json:"allow_internet_access"`
	}

	connectBody struct {
		Timeout *int64 `json:"timeout"`
		Memory  *bool  `json:"memory"`
	}

	pauseBody struct {
		Memory  *bool `json:"memory"`
		Healthy bool  `json:"requireHealthyGuest"`
	}

	timeoutBody struct {
		Timeout *int64 `json:"timeout"`
	}

	snapshotBody struct {
		Name   string `json:"name"`
		Memory *bool  `json:"memory"`
	}

	forkBody struct {
		Timeout *int64 `json:"timeout"`
		Count   *int   `json:"count"`
	}

	sandbox struct {
		TemplateID         string `json:"templateID"`
		SandboxID          string `json:"sandboxID"`
		ClientID           string `json:"clientID"`
		Alias              string `json:"alias,omitempty"`
		EnvdVersion        string `json:"envdVersion"`
		EnvdAccessToken    string `json:"envdAccessToken,omitempty"`
		TrafficAccessToken string `json:"trafficAccessToken,omitempty"`
		Domain             string `json:"domain,omitempty"`
	}

	detail struct {
		TemplateID          string            `json:"templateID"`
		SandboxID           string            `json:"sandboxID"`
		ClientID            string            `json:"clientID"`
		Alias               string            `json:"alias,omitempty"`
		StartedAt           time.Time         `json:"startedAt"`
		EndAt               time.Time         `json:"endAt"`
		CPUCount            int64             `json:"cpuCount"`
		MemoryMB            int64             `json:"memoryMB"`
		DiskSizeMB          int64             `json:"diskSizeMB"`
		State               string            `json:"state"`
		EnvdVersion         string            `json:"envdVersion"`
		Metadata            map[string]string `json:"metadata,omitempty"`
		Network             *network          `json:"network,omitempty"`
		AllowInternetAccess *bool             `json:"allowInternetAccess,omitempty"`
		Lifecycle           *lifecycle        `json:"lifecycle,omitempty"`
		VolumeMounts        []volumeMount     `json:"volumeMounts,omitempty"`
		Domain              string            `json:"domain,omitempty"`
	}

	lifecycle struct {
		OnTimeout  string `json:"onTimeout"`
		AutoResume bool   `json:"autoResume"`
	}

	metric struct {
		Timestamp     time.Time `json:"timestamp"`
		TimestampUnix int64     `json:"timestampUnix"`
		CPUCount      int64     `json:"cpuCount"`
		CPUUsedPct    float64   `json:"cpuUsedPct"`
		MemUsed       int64     `json:"memUsed"`
		MemTotal      int64     `json:"memTotal"`
		MemCache      int64     `json:"memCache"`
		DiskUsed      int64     `json:"diskUsed"`
		DiskTotal     int64     `json:"diskTotal"`
	}

	snapshotInfo struct {
		SnapshotID string   `json:"snapshotID"`
		Names      []string `json:"names"`
	}

	forked struct {
		Sandbox *sandbox `json:"sandbox,omitempty"`
		Error   *failure `json:"error,omitempty"`
	}
)

const (
	clientID = "aetherium"
	// envdVersion is whose agent's features ours has; the SDKs ask by it.
	envdVersion = "0.6.13"
	maxPage     = 100

	stateRunning = "running"
	statePaused  = "paused"
)
