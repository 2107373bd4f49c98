// Package access says who may do what: API keys, projects, users with their
// roles in projects, and the keys that sign access tokens. [Service] is the use
// cases: it validates, and writes to the store. [Lookup] is what every request
// asks: what a key, or a user, gives now.
//
// Nobody can hand out what they lack: a key's scopes are no wider than its
// maker's, and a key that belongs to a user gives no more than the user has in
// its project at the time it is used.
package access
