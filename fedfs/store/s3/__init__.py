"""S3 buckets as stores."""
