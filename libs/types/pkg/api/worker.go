package api

import "time"

// CreateJoinToken makes a token by which one worker can join.
type CreateJoinToken struct {
	TTLMS int64 `json:"ttl_ms,omitempty" minimum:"60000" maximum:"86400000" doc:"How long it counts; absent: an hour"`
}

// JoinToken lets one worker join, once. Its text was told when it was made.
type JoinToken struct {
	ID        string     `json:"id"`
	State     string     `json:"state" enum:"usable,used,expired"`
	CreatedBy string     `json:"created_by" doc:"Name of the key or user that made it"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt time.Time  `json:"expires_at"`
	UsedAt    *time.Time `json:"used_at,omitempty"`
	WorkerID  string     `json:"worker_id,omitempty" doc:"Who joined by it"`
	KeySHA256 string     `json:"key_sha256,omitempty" doc:"Hash of that worker's public key at the time, in hexadecimal"`
}

// NewJoinToken is a join token together with its text.
type NewJoinToken struct {
	JoinToken
	Token string `json:"token" doc:"For the worker that shall join. It is told this once"`
}

// JoinWorker is what a worker asks that has a join token.
type JoinWorker struct {
	Token     []byte `json:"token" minLength:"1" maxLength:"64" doc:"Public key (Ed25519) that belongs to the token's secret"`
	Signature []byte `json:"signature" minLength:"1" maxLength:"128" doc:"By that secret, over all the rest"`
	CSR       []byte `json:"csr" minLength:"1" maxLength:"8192" doc:"PKCS #10 of the worker's key (P-256), DER"`
	Name      string `json:"name" minLength:"1" maxLength:"63" example:"node-1" doc:"That the worker shall have"`
	Address   string `json:"address" minLength:"1" maxLength:"261" example:"node-1:7400" doc:"Where gateways reach it"`
}

// RenewWorker is what a worker asks whose certificate ends soon.
type RenewWorker struct {
	CSR         []byte `json:"csr" minLength:"1" maxLength:"8192" doc:"PKCS #10 of another key (P-256), DER"`
	Certificate []byte `json:"certificate" minLength:"1" maxLength:"8192" doc:"That it has, DER"`
	Signature   []byte `json:"signature" minLength:"1" maxLength:"128" doc:"By the key of that, over the request"`
}

// WorkerCertificate is who a worker is.
type WorkerCertificate struct {
	WorkerID    string `json:"worker_id"`
	Certificate string `json:"certificate" doc:"Of its key, PEM"`
	Authority   string `json:"authority" doc:"That signs for gateways and workers, PEM"`
}
