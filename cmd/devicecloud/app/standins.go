package app

import (
	"errors"

	standinaws "github.com/opticworks/devicecloud/standin/aws"
	standincarrier "github.com/opticworks/devicecloud/standin/carrier"
	standinstripe "github.com/opticworks/devicecloud/standin/stripe"
)

// standins are servers on loopback addresses that stand in for our partners: with
// `devicecloud demo`, and with DEV_STANDINS in dev mode. Nothing else knows of them: each
// puts its address and its secrets into the settings where nobody has put others.
type standins struct {
	Stripe  *standinstripe.Server  // nil: there is none
	Carrier *standincarrier.Server // nil: there is none
	AWS     *standinaws.Server     // nil: there is none
	close   []func() error
}

// startStandins starts what DEV_STANDINS asks for. address is where the program itself
// listens for HTTP, "" while it does not.
func (c *Config) startStandins(address func() string) (*standins, error) {
	s := &standins{}
	if !c.DevStandins {
		return s, nil
	}
	for _, start := range []func(*Config, func() string) error{s.startStripe, s.startCarrier, s.startAWS} {
		if err := start(c, address); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// StandIn is a server on this machine in the place of a partner.
type StandIn struct {
	Partner string // Stripe, the SIM carrier, AWS
	URL     string
}

// StandIns lists the stand-ins that run.
func (a *App) StandIns() (all []StandIn) {
	if s := a.standins.Stripe; s != nil {
		all = append(all, StandIn{"Stripe", s.URL()})
	}
	if s := a.standins.Carrier; s != nil {
		all = append(all, StandIn{"the SIM carrier", s.URL()})
	}
	if s := a.standins.AWS; s != nil {
		all = append(all, StandIn{"AWS", s.URL()})
	}
	return all
}

// Shop reports whether data plans can be bought without money: at stand-ins.
func (a *App) Shop() bool { return a.standins.Stripe != nil && a.standins.Carrier != nil }

// Film reports whether devices have video, and models that look at it, at a stand-in.
func (a *App) Film() bool { return a.standins.AWS != nil }

// Close ends them, the last first; it may be called again.
func (s *standins) Close() error {
	var err error
	for i := len(s.close) - 1; i >= 0; i-- {
		err = errors.Join(err, s.close[i]())
	}
	s.close = nil
	return err
}

// startStripe stands in for Stripe unless a key of the real one is set.
func (s *standins) startStripe(c *Config, address func() string) (err error) {
	if c.StripeSecretKey != "" {
		return nil
	}
	secret := c.StripeDataPlanWebhookSecret.Reveal() // "": one of its own
	s.Stripe, err = standinstripe.Start(standinstripe.Options{Secret: secret, Target: func() string {
		if a := address(); a != "" {
			return "http://" + dialable(a) + "/api/webhooks/data-plan"
		}
		return ""
	}})
	if err != nil {
		return err
	}
	s.close = append(s.close, s.Stripe.Close)
	c.StripeSecretKey, c.StripeBaseURL = Secret(s.Stripe.Key()), s.Stripe.URL()
	c.StripeDataPlanWebhookSecret = Secret(s.Stripe.Secret())
	return nil
}

// startCarrier stands in for the SIM carrier unless an account at the real one is set.
func (s *standins) startCarrier(c *Config, address func() string) (err error) {
	if c.EIOTClubAppKey != "" {
		return nil
	}
	s.Carrier, err = standincarrier.Start(standincarrier.Options{Begins: true, Target: func() string {
		if a := address(); a != "" {
			return "http://" + dialable(a) + "/api/webhooks/eiotclub"
		}
		return ""
	}})
	if err != nil {
		return err
	}
	s.close = append(s.close, s.Carrier.Close)
	c.EIOTClubAppKey, c.EIOTClubSecret, c.EIOTClubBaseURL = s.Carrier.AppKey(), Secret(s.Carrier.Secret()), s.Carrier.URL()
	c.EIOTClubWebhookSecret = Secret(s.Carrier.Secret())
	return nil
}
