package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"

	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/partner/bedrock"
	"github.com/opticworks/devicecloud/partner/kvs"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
)

var (
	bedrockRegion = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]+$`)
	bedrockModel  = regexp.MustCompile(`^[A-Za-z0-9.:/_-]{1,256}$`)
)

// checkBedrock refuses settings of Bedrock that cannot be meant.
func (c *Config) checkBedrock() error {
	var wrong []error
	if c.BedrockRegion != "" && !bedrockRegion.MatchString(c.BedrockRegion) {
		wrong = append(wrong, errors.New("BEDROCK_REGION must be like us-east-1"))
	}
	if !bedrockModel.MatchString(c.BedrockModelID) {
		wrong = append(wrong, errors.New("BEDROCK_MODEL_ID must be the id of a model or of an inference profile"))
	}
	return errors.Join(wrong...)
}

// model is the model at Bedrock; nil when it is not enabled, or no region is known. It
// is asked nothing yet.
func (c *Config) model(ctx context.Context) (media.Model, error) {
	if !c.BedrockEnabled || c.BedrockRegion == "" {
		return nil, nil
	}
	access := c.AWSAccess
	access.Region = c.BedrockRegion
	loaded, err := kvs.LoadConfig(ctx, access)
	if err != nil {
		return nil, fmt.Errorf("the settings of AWS for Bedrock: %w", err)
	}
	return bedrock.New(loaded, c.BedrockModelID), nil
}

// newClassifier wires the classification of events.
func (c *Config) newClassifier(ctx context.Context, video *media.Service, db *sqlstore.DB, options registry.Options, log *slog.Logger) (*media.Classifier, error) {
	model, err := c.model(ctx)
	if err != nil {
		return nil, err
	}
	return media.NewClassifier(video, db.Classifications(), media.ClassifyOptions{
		Model: model, ModelID: c.BedrockModelID, DailyLimit: c.BedrockDailyLimit, NextID: options.NextID, Logger: log,
	}), nil
}
