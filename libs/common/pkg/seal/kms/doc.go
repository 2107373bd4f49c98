// Package kms is a keyring whose keys live elsewhere: in a key management
// service that is asked over HTTP, by a unix socket or TLS, or in a program
// that is run for every question. Data keys go there to be wrapped and
// unwrapped; records never do.
//
// # The protocol
//
// There are two questions, both JSON, both idempotent; []byte is standard base64.
//
//	wrap    {"data_key": "<32 bytes>"}                    -> {"key_id": "…", "wrapped": "…"}
//	unwrap  {"key_id": "…", "wrapped": "<as it was told>"} -> {"data_key": "<32 bytes>"}
//
// wrap takes the service's newest key, and says which: key_id has 1 to 128
// printable characters of ASCII without blanks, wrapped 1 to 1024 bytes. An
// answer has at most 16 KiB; what else it holds is ignored.
//
// Over HTTP a question is POST <url>/wrap or <url>/unwrap, and its answer has
// status 200. A token, if there is one, is sent as Authorization: Bearer. 404
// to unwrap says that the key or what it wrapped is not known and never will
// be; 408, 425, 429 and 5xx say that another attempt may succeed. Anything
// else, a redirect too, is a refusal. Proxies are not used.
//
// A program is run with wrap or unwrap as its last argument, the question on
// stdin and the answer on stdout. Exit code 0 is an answer, 65 (EX_DATAERR)
// means the same as 404, 75 (EX_TEMPFAIL) the same as 503; the beginning of its
// stderr goes to the log. What it leaves running is killed.
//
// An attempt has a time limit, and there are three. A service that cannot be
// reached or refuses is Unavailable. What was wrapped is unwrapped at once and
// compared, before anything is sealed with it: a service that cannot give a key
// back loses nothing.
package kms
