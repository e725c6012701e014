package app

import (
	"errors"
	"fmt"
	"time"

	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/partner/eiotclub"
)

// carrier fills in the SIM carrier's part of the domain of data plans: the account that
// orders, and what verifies notifications. Each is nil where its secret is not set; each
// needs only its own.
func (c *Config) carrier(o *dataplan.Options) (err error) {
	o.NoticeWindow = time.Duration(c.EIOTClubTimestampWindowSec) * time.Second
	if o.NoticeAddresses, err = prefixes("EIOTCLUB_ALLOWED_IPS", c.EIOTClubAllowedIPs); err != nil {
		return err
	}
	if c.EIOTClubBaseURL != "" {
		if err := eiotclub.CheckURL(c.EIOTClubBaseURL); err != nil {
			return fmt.Errorf("EIOTCLUB_BASE_URL is %w", err)
		}
	}
	if (c.EIOTClubAppKey == "") != (c.EIOTClubSecret == "") {
		return errors.New("EIOTCLUB_APP_KEY and EIOTCLUB_SECRET belong together: one of them is empty")
	}
	if c.EIOTClubAppKey != "" {
		o.Carrier, err = eiotclub.NewClient(eiotclub.Options{
			AppKey: c.EIOTClubAppKey, Secret: eiotclub.Secret(c.EIOTClubSecret.Reveal()), BaseURL: c.EIOTClubBaseURL,
		})
		if err != nil {
			return err
		}
	}
	if c.EIOTClubWebhookSecret != "" {
		o.Notices, err = eiotclub.NewReader(eiotclub.Secret(c.EIOTClubWebhookSecret.Reveal()), eiotclub.Signer{})
	}
	return err
}
