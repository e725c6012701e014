package webhook

import (
	"math/rand/v2"
	"net/http"
	"time"
)

// plan is how long after each failed attempt the next one is made: ten attempts within
// some 76 hours. [Standard Webhooks, retry schedule]
var plan = [...]time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
	10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

const (
	// failingLimit disables an endpoint of which nothing was accepted for so long.
	failingLimit = 5 * 24 * time.Hour
	// throttle is how long a receiver is left alone that says it has too much to do and
	// not for how long.
	throttle = 30 * time.Second
)

// jitter lengthens a wait by up to a fifth, so that what failed together is not tried
// again together.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/5+1) }

// settle writes the result of its attempt into a delivery.
func (d *Delivery) settle(r Result, now time.Time) {
	d.TriedAt, d.Answer, d.Error = now, r.Status, r.Error
	switch {
	case r.Error == "":
		d.Status, d.FinishedAt = Delivered, now
	case r.Status == http.StatusGone || d.tries() > len(plan):
		d.Status, d.FinishedAt = Failed, now
	default:
		d.DueAt = now.Add(max(jitter(plan[d.tries()-1]), r.RetryAfter))
	}
}

// pause is how long a receiver that failed wants to be left alone as a whole; 0: it does
// not say so.
func (r Result) pause() time.Duration {
	switch r.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
		return max(jitter(throttle), r.RetryAfter)
	}
	return r.RetryAfter
}
