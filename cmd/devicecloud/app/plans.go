package app

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/partner/stripepay"
)

// dataPlans reads DATA_PLANS_FILE; nil without one.
func (c *Config) dataPlans() ([]dataplan.Plan, error) {
	if c.DataPlansFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.DataPlansFile)
	if err != nil {
		return nil, fmt.Errorf("DATA_PLANS_FILE: %w", err)
	}
	plans, err := dataplan.ParsePlans(text)
	if err != nil {
		return nil, fmt.Errorf("DATA_PLANS_FILE: %s: %w", c.DataPlansFile, err)
	}
	return plans, nil
}

// checkPlans checks what selling data plans needs.
func (c *Config) checkPlans() error {
	var wrong []error
	if _, err := c.dataPlans(); err != nil {
		wrong = append(wrong, err)
	}
	if key := c.StripeSecretKey.Reveal(); key != "" {
		if !strings.HasPrefix(key, "sk_") && !strings.HasPrefix(key, "rk_") {
			wrong = append(wrong, errors.New("STRIPE_SECRET_KEY must begin with sk_ or rk_: a publishable key cannot take payments"))
		}
		if c.PublicURL == "" && !c.Dev {
			wrong = append(wrong, errors.New("PUBLIC_URL is required with STRIPE_SECRET_KEY: buyers are sent back there"))
		}
	}
	if c.DevStandins && !c.Dev {
		wrong = append(wrong, errors.New("DEV_STANDINS is for development: it needs --dev"))
	}
	return errors.Join(wrong...)
}

func (c *Config) dataplanOptions(log *slog.Logger, nextID func() int64) dataplan.Options {
	o := dataplan.Options{Pages: c.publicURL(), NextID: nextID, Logger: log}
	if c.StripeSecretKey != "" {
		o.Provider = stripepay.New(stripepay.Options{Key: c.StripeSecretKey.Reveal(), BaseURL: c.StripeBaseURL})
	}
	if webhook, ok := stripepay.NewWebhook(c.StripeDataPlanWebhookSecret.Reveal()); ok {
		o.Verifier = webhook
	} else if c.StripeDataPlanWebhookSecret != "" || c.StripeSecretKey != "" {
		log.Error("STRIPE_DATA_PLAN_WEBHOOK_SECRET is not the secret of an endpoint, which begins with whsec_: what Stripe reports is refused with 500 until it is")
	}
	return o
}
