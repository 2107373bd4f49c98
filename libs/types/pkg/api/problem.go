package api

// ProblemContentType is the media type of every error body (RFC 9457).
const ProblemContentType = "application/problem+json"

// Problem is the body of every error (RFC 9457) with a stable code.
type Problem struct {
	Type      string       `json:"type" doc:"A URI reference for the kind of problem; its fragment is the code" example:"/docs#not_found"`
	Title     string       `json:"title" doc:"The HTTP status in words" example:"Not Found"`
	Status    int          `json:"status" doc:"HTTP status" example:"404"`
	Code      string       `json:"code" doc:"Stable, machine-readable code" example:"not_found"`
	Detail    string       `json:"detail" doc:"What went wrong with this request" example:"there is no VM \"web\""`
	Hint      string       `json:"hint,omitempty" doc:"What to do about it"`
	Field     string       `json:"field,omitempty" doc:"The offending input"`
	Errors    []FieldError `json:"errors,omitempty" nullable:"false" doc:"Every offending input, where there are several"`
	RequestID string       `json:"request_id,omitempty" doc:"To find the request in the server's log"`
}

// FieldError is one offending input.
type FieldError struct {
	Field   string `json:"field" doc:"Where, e.g. body.resources.milli_cpu or query.limit"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}
