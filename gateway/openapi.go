package gateway

import (
	"context"
	_ "embed"
	"net/http"
)

// openapiText describes everything that is served, as OpenAPI 3.1. Tests hold every request and every answer of theirs to it.
//
//go:embed openapi.yaml
var openapiText []byte

// getOpenAPI answers with the description of the API.
func (*Gateway) getOpenAPI(context.Context, *call) (answer, error) {
	return answer{status: http.StatusOK, text: openapiText, header: http.Header{"Content-Type": {"application/yaml"}}}, nil
}
