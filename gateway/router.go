package gateway

import (
	"errors"
	"net/http"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
)

// router lets echo find the route of a request; everything else about the request is done by serve.
func (g *Gateway) router() http.Handler {
	e := echo.New()
	e.IPExtractor = echo.ExtractIPDirect()
	e.Pre(prepare)
	e.HTTPErrorHandler = g.strayed
	for _, r := range Routes() {
		e.Add(r.Method, r.Path, g.serving(r))
	}
	for _, r := range opsRoutes() {
		e.HEAD(r.Path, g.serving(r)) // as net/http does for them on the other listener
	}
	return e
}

// serving is a route as echo calls it.
func (g *Gateway) serving(r Route) echo.HandlerFunc {
	return func(c echo.Context) error {
		g.serve(c.Response().Writer, c.Request(), r, c.Param)
		return nil
	}
}

// prepare makes echo look at the path as it was sent, so that %2F in a value is not the end of a segment, and every value is
// unescaped exactly once.
func prepare(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if c.Request().Method == http.MethodOptions { // echo answers these itself, with the methods that there are
			c.Response().Header().Set(requestIDHeader, uuid.NewString())
		}
		url := c.Request().URL
		url.RawPath = url.EscapedPath()
		return next(c)
	}
}

// strayed answers what fits no route.
func (g *Gateway) strayed(err error, c echo.Context) {
	cause := errNoRoute
	if errors.Is(err, echo.ErrMethodNotAllowed) {
		cause = errMethod
	}
	g.serve(c.Response().Writer, c.Request(), stray(cause), nil)
}
