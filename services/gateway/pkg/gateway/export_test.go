package gateway

import "github.com/go-chi/chi/v5"

// Routes are what the API's hosts serve.
func (g *Gateway) Routes() chi.Routes { return g.router.(chi.Routes) }
