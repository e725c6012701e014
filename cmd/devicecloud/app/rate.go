package app

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate is a limit as settings spell it: "6/m:20" is 6 a minute with a burst of 20.
// The units are s, m and h. Without a burst it is the count, at least 1. "0" is no
// limit, and so is the zero value.
type Rate struct {
	Count int           // events per Per; 0: no limit
	Per   time.Duration // a second, a minute or an hour
	Burst int           // events at once, at least 1 when Count is not 0
}

const rateForm = `must be like "6/m:20" (6 a minute, at most 20 at once; units s, m, h) or 0 for no limit`

// ParseRate reads a rate.
func ParseRate(s string) (Rate, error) {
	s = strings.TrimSpace(s)
	if s == "0" {
		return Rate{}, nil
	}
	amount, burst, hasBurst := strings.Cut(s, ":")
	count, unit, ok := strings.Cut(amount, "/")
	if !ok {
		return Rate{}, fmt.Errorf("%q %s", s, rateForm)
	}
	var r Rate
	switch unit {
	case "s":
		r.Per = time.Second
	case "m":
		r.Per = time.Minute
	case "h":
		r.Per = time.Hour
	default:
		return Rate{}, fmt.Errorf("%q %s", s, rateForm)
	}
	var err error
	if r.Count, err = positive(count); err != nil {
		return Rate{}, fmt.Errorf("%q %s", s, rateForm)
	}
	r.Burst = r.Count
	if hasBurst {
		if r.Burst, err = positive(burst); err != nil {
			return Rate{}, fmt.Errorf("%q %s", s, rateForm)
		}
	}
	return r, nil
}

func positive(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, strconv.ErrRange
	}
	return int(n), nil
}

// UnmarshalText reads a rate as [ParseRate] does.
func (r *Rate) UnmarshalText(text []byte) error {
	parsed, err := ParseRate(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}

// String spells the rate as ParseRate reads it.
func (r Rate) String() string {
	if r.Count == 0 {
		return "0"
	}
	unit := "s"
	switch r.Per {
	case time.Minute:
		unit = "m"
	case time.Hour:
		unit = "h"
	}
	if r.Burst == r.Count {
		return fmt.Sprintf("%d/%s", r.Count, unit)
	}
	return fmt.Sprintf("%d/%s:%d", r.Count, unit, r.Burst)
}

// PerSecond is the rate in events a second; 0 is no limit.
func (r Rate) PerSecond() float64 {
	if r.Count == 0 || r.Per <= 0 {
		return 0
	}
	return float64(r.Count) / r.Per.Seconds()
}
