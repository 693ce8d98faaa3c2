package delivery

import (
	"time"

	"github.com/pulsegate/pulsegate/health"
)

// outcome is how one try ended. A bot's failure is an outcome, never an error.
type outcome struct {
	class      health.Class // health.Acknowledged, or why not
	code       int          // HTTP status; 0 when there was no answer
	message    string       // in words, for the request record
	latency    time.Duration
	retryAfter time.Duration // as the bot asked; 0: it did not
	cancelled  bool          // the gateway itself ended the try: it counts for nothing
	short      bool          // the gateway had no file left to make it with: none was made
}

func (o outcome) acknowledged() bool { return o.class == health.Acknowledged && !o.cancelled }
